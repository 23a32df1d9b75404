"""Loops: exact ones, near ones, and text that only looks like one."""

import random
from typing import Any

import pytest

from seed_oss.errors import InputError
from seed_oss.generation.loop_guard import LoopGuard, z_function


def test_z_function_against_its_definition() -> None:
    rng = random.Random(0)
    for _ in range(300):
        items = [rng.randrange(2) for _ in range(rng.randrange(12))]
        for position, agreed in enumerate(z_function(items)):
            rest = items[position:] if position else []
            assert items[:agreed] == rest[:agreed]
            assert agreed == len(rest) or items[agreed] != rest[agreed]


@pytest.mark.parametrize("period", [1, 2, 7, 30, 128])
def test_exact_repetition(period: int) -> None:
    rng = random.Random(period)
    piece = [rng.randrange(1000) for _ in range(period)]
    copies = max(4, -(-96 // period))
    start = [rng.randrange(1000) for _ in range(40)]
    assert LoopGuard().is_loop(start + piece * copies)
    assert not LoopGuard().is_loop(start + piece * (min(copies, 4) - 1))
    assert not LoopGuard().is_loop(piece * copies + [1001])


def test_near_repetition() -> None:
    rng = random.Random(0)
    piece = [rng.randrange(1000) for _ in range(20)]
    almost = [token for _ in range(40) for token in [*piece, rng.randrange(1000)]][:512]
    assert LoopGuard(distinct_share=0.3).is_loop(almost)
    assert not LoopGuard(distinct_share=0.3).is_loop(almost[:500])


def test_ordinary_text_is_no_loop() -> None:
    rng = random.Random(0)
    words = [rng.randrange(60) for _ in range(512)]
    assert not LoopGuard().is_loop(words)
    assert not LoopGuard().is_loop([5] * 20)
    assert not LoopGuard().is_loop([])


@pytest.mark.parametrize(
    "bad",
    [
        {"window": 3},
        {"repeats": 1},
        {"every": 0},
        {"min_tokens": True},
        {"distinct_share": 1},
        {"distinct_share": "x"},
    ],
)
def test_values_out_of_range(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        LoopGuard(**bad)
