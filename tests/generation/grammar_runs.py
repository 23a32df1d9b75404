"""A model of random wishes that is held to a grammar, token by token, as `generate` does it."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from seed_oss.chat import SeedOssTokenizer
from seed_oss.chat.backend import twin
from seed_oss.generation.grammar import GrammarControl, grammar_control
from seed_oss.generation.grammar_compiler import GrammarCompiler
from seed_oss.generation.row_control import Directive, RowControl
from tests.chat.tokenizer_factory import CONTROL_TOKENS
from tests.seed_tokenizer import seed_tokenizer

BOS, PAD, EOS, THINK, END_THINK, REFLECT, END_REFLECT, TOOL_CALL, END_TOOL_CALL = range(len(CONTROL_TOKENS))


@lru_cache
def tokenizer() -> SeedOssTokenizer:
    return seed_tokenizer()


@lru_cache
def compiler() -> GrammarCompiler:
    return GrammarCompiler(tokenizer())


def control(**settings: Any) -> GrammarControl:
    made = grammar_control(compiler(), **settings)
    assert made is not None
    return made


def ids_of(text: str) -> list[int]:
    return tokenizer().encode(text, add_special_tokens=False)


def plain_ids_of(text: str) -> list[int]:
    """The ids of a text that holds no control token, whatever it spells."""
    return twin(tokenizer().backend_tokenizer, added_tokens=False).encode(text, add_special_tokens=False).ids


def text_of(ids: Sequence[int]) -> str:
    return tokenizer().decode(list(ids), skip_special_tokens=False)


def allowed_by(directive: Directive, size: int) -> Tensor:
    """Every token that a directive lets come, bool `[size]`."""
    mask = torch.ones(size, dtype=torch.bool) if directive.allowed is None else directive.allowed.clone()
    mask[list(directive.banned)] = False
    if directive.forced is not None:
        mask = torch.arange(size) == directive.forced
    return mask


@dataclass
class Run:
    """What came of a run."""

    ids: list[int] = field(default_factory=list)
    states: list[Any] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)
    stop: str | None = None

    @property
    def text(self) -> str:
        return text_of(self.ids).removesuffix("<seed:eos>")


def run(
    control: RowControl,
    wishes: Iterator[Sequence[float]],
    *,
    prompt: Sequence[int] = (),
    max_new: int = 400,
    size: int = 448,
) -> Run:
    """Take the most wished-for token of those allowed until the end."""
    done = Run()
    state = control.start(prompt, max_new)
    for wish in wishes:
        directive = control.directive(state)
        done.states.append(state)
        if directive.stop is not None:
            done.stop = directive.stop
            break
        mask = allowed_by(directive, size)
        done.masks.append(mask)
        assert bool(mask.any())
        token = int(torch.tensor(wish).masked_fill(~mask, -1e9).argmax())
        done.ids.append(token)
        state = control.advance(state, token)
        if token == EOS or len(done.ids) == max_new:
            break
    done.states.append(state)
    return done


def random_wishes(seed: int, *, closing: float = 0.3, openers: float = 0.0, size: int = 448) -> Iterator[list[float]]:
    """Random, but that what closes something is often wanted, so that texts come to an end."""
    source = random.Random(seed)
    closers = [EOS, END_TOOL_CALL, *(ids_of(char)[0] for char in '"}]</,:')]
    end_of_value = ids_of("</parameter>")
    pending: list[int] = []
    while True:
        wish = [source.random() for _ in range(size)]
        if pending or source.random() < 0.1:
            pending = pending or list(end_of_value)
            wish[pending.pop(0)] += 3
        elif source.random() < openers:
            wish[TOOL_CALL] += 1
        elif source.random() < closing:
            for token in closers:
                wish[token] += 1
        yield wish


def scripted(*parts: str | int, size: int = 448) -> Iterator[list[float]]:
    """Wishes for given tokens, then for ends."""
    ids = [token for part in parts for token in ([part] if isinstance(part, int) else ids_of(part))]
    for token in ids:
        yield [float(one == token) for one in range(size)]
    while True:
        yield [float(one == EOS) for one in range(size)]
