"""The markers of the Seed format. Each is one added token of the vocabulary; their ids differ between checkpoints.

Rendered prompts and generated answers are sequences of pieces: text, and control tokens. Text that spells a marker is
still text; only a ControlToken is one.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ControlToken:
    """A control token by its text, such as `<seed:think>`."""

    text: str

    def __str__(self) -> str:
        return self.text


Piece = str | ControlToken

BOS = ControlToken("<seed:bos>")
EOS = ControlToken("<seed:eos>")
PAD = ControlToken("<seed:pad>")
THINK = ControlToken("<seed:think>")
END_THINK = ControlToken("</seed:think>")
REFLECT = ControlToken("<seed:cot_budget_reflect>")
END_REFLECT = ControlToken("</seed:cot_budget_reflect>")
TOOL_CALL = ControlToken("<seed:tool_call>")
END_TOOL_CALL = ControlToken("</seed:tool_call>")

SEED_CONTROL_TOKENS = (BOS, EOS, PAD, THINK, END_THINK, REFLECT, END_REFLECT, TOOL_CALL, END_TOOL_CALL)


def join(pieces: Sequence[Piece]) -> str:
    """The text that pieces stand for, markers spelled out."""
    return "".join(map(str, pieces))
