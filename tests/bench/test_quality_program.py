"""benchmarks/quality.py: every scheme has its rows without being asked for, and both tables reach the page."""

import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import torch

from seed_oss import SeedOssForCausalLM
from seed_oss.quant.quality import compare, reference_of
from seed_oss.quant.schemes import SCHEMES
from tests.architecture.source import ROOT
from tests.factory import random_ids, tiny_model
from tools import sections


@pytest.fixture
def quality(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The program, without arguments; its neighbours go away with it."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "argv", ["quality.py"])
    yield import_module("quality")
    for name in ("quality", "goals", "common"):
        sys.modules.pop(name, None)


def test_every_scheme_is_measured_in_both_tables(quality: Any) -> None:
    options = quality.parsed()
    assert options.tables == ["original", "rebased", "inference"]
    rows = [name for name, _ in quality.ways(None, options, torch.empty(0))]
    assert len(rows) == len(set(rows))
    for scheme in SCHEMES:
        assert {f"{scheme}, plain", f"{scheme}, search"} <= set(rows)
    assert {"fp8, plain", *quality.PEERS_AT_EQUAL_BITS, *quality.PEERS_AT_EQUAL_BITS.values()} <= set(rows)


def test_8_bit_floating_point_is_rounded_here(quality: Any) -> None:
    model = tiny_model(SeedOssForCausalLM)
    values, bits = quality.ours(model, "fp8", "plain", torch.empty(0))
    assert len(values) == 7 * model.config.num_hidden_layers
    assert 8 < bits < 9.1
    reference = reference_of(model, random_ids(2, 20))
    with torch.no_grad():
        for name, value in values.items():
            assert not torch.equal(model.get_parameter(name), value)
            model.get_parameter(name).copy_(value)
    assert 0 < compare(model, reference).kl < 0.01


def test_both_tables_reach_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"increase": 0.0123, "kl": 0.5, "top1": 0.75}
    tables = {"original": {"int4, plain": {**row, "bits": 4.625}}, "rebased": {"fp8, plain": {**row, "bits": 8.1}}}
    run = {"date": "2026-01-01", "commit": "abc1234", "command": "python benchmarks/quality.py --tokens 2048"}
    found = {"results": {"tokens": 2048, **tables, "inference": {"8-bit cache": row}}, **run}
    monkeypatch.setattr(sections, "result", lambda _: found)
    text = sections.quality()
    assert "| weights, as shipped | bits |" in text
    assert "| int4, plain | 4.62 | +1.23% | 0.5 | 75.0% |" in text
    assert "| weights, in another basis | bits |" in text
    assert "| fp8, plain | 8.1 |" in text
    assert "| 8-bit cache | +1.23% |" in text
    assert text.endswith("2,048 tokens; 2026-01-01, commit abc1234; `python benchmarks/quality.py --tokens 2048`.")
