"""Answers under thinking budgets, recounted from their ids: written from what a budget promises, not from its code.

Counted is every token after `<seed:think>` and before the closing sentence, reflections included.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import torch

from seed_oss import GenerationConfig
from seed_oss.chat import parse
from tests.factory import tiny_config
from tests.seed_tokenizer import seed_tokenizer

_, PAD, EOS, THINK, END_THINK, REFLECT, END_REFLECT, TOOL_CALL, END_TOOL_CALL = range(9)
TOKENIZER = seed_tokenizer()
SIZE = len(TOKENIZER)
SPENT = "I have exhausted my token budget, and now I will start answering the question."
ZERO = "The current thinking budget is 0, so I will directly start answering the question."
TOLD = "I have used {} tokens, and there are {} tokens remaining for use."


@lru_cache(10_000)
def ids_of(text: str) -> list[int]:
    """The ids of a text without markers."""
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


CLOSING = [REFLECT, *ids_of(SPENT), END_REFLECT, *ids_of("\n"), END_THINK]
SKIPPED = [THINK, *ids_of("\n"), REFLECT, *ids_of(ZERO), END_REFLECT, *ids_of("\n"), END_THINK]


@dataclass
class Answer:
    """What came of a run.

    Args:
        prompt: ids before it, whatever was appended to them included.
        ids: the answer.
        forced: of each, whether it was forced.
        limit: tokens that decoding holds to; None for none.
        max_new: most tokens of the answer.
        reason: why it ended.
    """

    prompt: Sequence[int]
    ids: list[int]
    forced: list[bool]
    limit: int | None
    max_new: int
    reason: str | None = None


@dataclass
class Recount:
    """What an answer shows.

    Args:
        used: tokens of thinking.
        reflections: how many told numbers.
        closings: how many trained closings.
        rooms: of each end of thinking, how many tokens could come after it, and whether its block was empty.
        written: the forced tokens, by their places.
    """

    used: int = 0
    reflections: int = 0
    closings: int = 0
    rooms: list[tuple[int, bool]] = field(default_factory=list)
    written: set[int] = field(default_factory=set)


def last_turn(prompt: Sequence[int]) -> list[int]:
    """The prompt after its last end of a turn."""
    ends = [place for place, token in enumerate(prompt) if token == EOS]
    return list(prompt[ends[-1] + 1 :] if ends else prompt)


def open_block(prompt: Sequence[int]) -> list[int] | None:
    """The tokens of the think block that the prompt leaves open."""
    turn = last_turn(prompt)
    opened = max((place for place, token in enumerate(turn) if token == THINK), default=-1)
    closed = max((place for place, token in enumerate(turn) if token == END_THINK), default=-1)
    return turn[opened + 1 :] if opened > closed else None


def recount(answer: Answer) -> Recount:
    """Read an answer, and check what holds token by token."""
    ids, limit = answer.ids, answer.limit
    block = open_block(answer.prompt)
    thinks, begun = block is not None, 0
    found = Recount(used=len(block or ()))
    place = 0
    if block and block[-1] == REFLECT and limit is not None:  # the prompt has opened a reflection, we say the rest
        place = _told(answer, found, 0)
        if not place:
            assert ids[: len(CLOSING) - 1] == CLOSING[1:]
            found.used -= 1
            place, thinks = len(CLOSING) - 1, False
            _closed(answer, found, 0, place, begun)
    while place < len(ids):
        if not thinks:
            thinks = ids[place] == THINK
            place += 1
            begun = place
            continue
        if ids[place : place + len(CLOSING)] == CLOSING:
            _closed(answer, found, place, place + len(CLOSING), begun)
            place, thinks = place + len(CLOSING), False
        elif ids[place] == END_THINK:
            place, thinks = place + 1, False
            found.rooms.append((answer.max_new - place, False))
        else:
            assert ids[place] != EOS, "an end inside thinking"
            found.used += 1
            place = _reflected(answer, found, place)
    assert not thinks, "thinking was left open"
    return found


def _closed(answer: Answer, found: Recount, start: int, end: int, begun: int) -> None:
    found.closings += 1
    found.rooms.append((answer.max_new - end, start - begun <= 1))
    first = start if answer.ids[start] != REFLECT or answer.forced[start] else start + 1  # the model's own marker
    found.written |= set(range(first, end))


def _reflected(answer: Answer, found: Recount, place: int) -> int:
    """Behind a counted token, and behind the true numbers if it has opened a reflection."""
    if answer.ids[place] == END_REFLECT and answer.forced[place]:  # of one that is open where thinking is closed
        assert answer.ids[place + 1 : place + 1 + len(CLOSING)] == CLOSING
        found.written.add(place)
    if answer.ids[place] != REFLECT or answer.limit is None:
        return place + 1
    end = _told(answer, found, place + 1)
    assert end, "a reflection without true numbers"
    return end


def _told(answer: Answer, found: Recount, place: int) -> int:
    """Where a reflection that starts here ends; 0 if no true one does."""
    assert answer.limit is not None
    told = [*ids_of(TOLD.format(found.used, max(answer.limit - found.used, 0))), END_REFLECT]
    if answer.ids[place : place + len(told)] != told:
        return 0
    found.used += len(told)
    found.reflections += 1
    found.written |= set(range(place, place + len(told)))
    return place + len(told)


def is_answered(ids: Sequence[int], prompt: Sequence[int]) -> bool:
    """Whether a reader gets content, or the start of a call, after the last end of thinking."""
    detokenizers = TOKENIZER.detokenizer(), TOKENIZER.detokenizer(skip_special_tokens=True)
    before, after = (
        [*one.put_pieces(part), *one.finish_pieces()] for one, part in zip(detokenizers, (prompt, ids), strict=True)
    )
    whole = last_turn([*prompt, *ids][:-1] if ids and ids[-1] == EOS else [*prompt, *ids])
    ends = [place for place, token in enumerate(whole) if token == END_THINK]
    rest = whole[ends[-1] + 1 :] if ends else whole
    return bool(parse(after, prompt=before).content) or TOOL_CALL in rest


def check(answer: Answer) -> Recount:
    """Everything that section 3 of the issue promises of one answer."""
    found = recount(answer)
    ids = answer.ids
    assert len(ids) <= answer.max_new
    assert EOS not in ids[:-1]
    if answer.limit is not None:
        brought = len(open_block(answer.prompt) or ())
        assert found.used <= max(answer.limit + min(32, answer.limit // 8), brought + 1)
    assert {place for place, forced in enumerate(answer.forced) if forced} == found.written
    for room, is_empty in found.rooms:
        assert room >= 1
        assert room >= min(256, answer.max_new // 4) or is_empty
    has_thought = bool(found.rooms) or END_THINK in last_turn(answer.prompt)
    if has_thought and answer.reason != "loop":
        assert is_answered(ids, answer.prompt), TOKENIZER.decode(ids)
    return found


class MarkovModel:
    """A causal model whose scores are a function of the newest token and its position, biased towards markers.

    Args:
        seed: of that function.
        likes: added to the scores, by token.
        other: how far it differs from the model of the same seed without it, for an assistant.
        size: of the vocabulary.
    """

    def __init__(self, seed: int, likes: dict[int, float], other: float = 0.0, size: int = SIZE) -> None:
        self.config = tiny_config(vocab_size=size, num_hidden_layers=1, max_position_embeddings=1 << 20)
        self.generation_config = GenerationConfig(pad_token_id=PAD, eos_token_id=EOS)
        self.device = torch.device("cpu")
        generator = torch.Generator().manual_seed(seed)
        self.table = 2 * torch.randn(499, size, generator=generator)
        for token, more in likes.items():
            self.table[:, token] += more
        self.table += other * torch.randn(499, size, generator=generator)
        self.num_forwards = 0

    def __call__(self, input_ids: torch.Tensor, past_key_values: Any, **inputs: Any) -> Any:
        """See CausalModel."""
        self.num_forwards += 1
        rows, num_new = input_ids.shape
        start = past_key_values.get_seq_length()
        nothing = torch.zeros(rows, 1, num_new, 1)
        past_key_values.update(nothing, nothing, 0)
        positions = inputs.get("position_ids")
        positions = torch.arange(start, start + num_new) if positions is None else positions
        keep = inputs.get("logits_to_keep", 0)
        logits = self.table[((31 * input_ids + 7 * positions) % 499)[:, -keep:]]
        return SimpleNamespace(logits=logits, past_key_values=past_key_values)
