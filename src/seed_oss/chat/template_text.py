"""The Seed chat template as text, for checkpoints that have none: what engines read from chat_template.jinja.

It is written anew and renders as the released ones do, which a test holds it to; `render` needs no template.
"""

from functools import lru_cache
from pathlib import Path

from seed_oss.chat.budget import NO_BUDGET
from seed_oss.chat.control_tokens import END_REFLECT, END_THINK, REFLECT, THINK
from seed_oss.chat.seed_template import Variant

_NOTHING_TO_THINK: dict[Variant, str] = {
    "current": f"{THINK}\\n{REFLECT}{NO_BUDGET}{END_REFLECT}\\n{END_THINK}",
    "initial": f"{THINK}{REFLECT}",
}


@lru_cache
def seed_chat_template(variant: Variant = "current") -> str:
    """A Jinja template of the Seed format, to set as `chat_template` of a tokenizer before it is saved.

    Args:
        variant: "current", or "initial" for the first release, which leaves the think block of budget 0 open.
    """
    text = Path(__file__).with_name("seed_template.jinja").read_text(encoding="utf-8").rstrip("\n")
    return text.replace("ZERO", f'"{_NOTHING_TO_THINK[variant]}"')
