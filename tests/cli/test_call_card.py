"""A card never takes more rows of the screen than there are, as rich counts them."""

import pytest
from rich.cells import cell_len

from seed_oss.cli.call_card import lines, visible

ROWS, COLUMNS = 24, 80


@pytest.mark.parametrize("first", range(0x2600, 0x2700, 0x40))
@pytest.mark.parametrize("more", [0, 0x27C0])  # misc symbols, hexagrams
def test_rows_of_symbols(first: int, more: int) -> None:
    for code in range(first + more, first + more + 0x40):
        shown = lines({"command": f"rm -rf ~ # {visible(chr(code)) * 3000} ls"}, (COLUMNS, ROWS))
        assert sum(-(-cell_len(line) // (COLUMNS - 4)) for line in shown) < ROWS - 4
        assert "rm -rf" in shown[0]
