"""benchmarks/load.py: how a packed folder is measured, and its place in the table."""

from pathlib import Path

import pytest

from seed_oss import SeedOssForCausalLM
from tests.architecture.source import ROOT
from tests.factory import tiny_checkpoint
from tools import sections


def test_a_packed_folder_has_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import load  # pyright: ignore[reportMissingImports]

    found = load.packed_loads(tiny_checkpoint(tmp_path / "tiny", SeedOssForCausalLM), 1)
    assert found["seconds"]["trials"] == 1
    assert found["seconds"]["median"] > 0
    (row,) = sections._packed_load_rows(found)
    assert row[0] == "`from_pretrained`, saved in int4"
