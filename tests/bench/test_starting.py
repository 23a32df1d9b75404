"""How processes are started when their start is measured."""

import sys
from typing import Any

from seed_oss.bench.starting import seconds_to_first_byte


def test_a_start_may_keep_what_it_compiles(monkeypatch: Any) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    keeps = "import os, sys; assert not sys.dont_write_bytecode and os.environ['OWN'] == '1'; print(1)"
    seconds, _ = seconds_to_first_byte([sys.executable, "-c", keeps], {"OWN": "1"})
    assert seconds > 0
