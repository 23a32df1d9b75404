"""README and docs as the tests see them: pages, and the fenced blocks in them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVER = "http://127.0.0.1:8000"
"""Where the pages' examples find a server; one that has it in it needs one."""
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w-]*)[^\n]*\n(?P<body>.*?)^(?P=indent)```", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, and the line of the page it starts on."""

    language: str
    text: str
    line: int

    @property
    def needs_server(self) -> bool:
        """Whether it asks a server, as `test_server_examples.py` starts one."""
        return SERVER in self.text


def pages() -> list[Path]:
    """README and every page of the docs, the decisions included."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def page_name(page: Path) -> str:
    """A page's name from the repository's root."""
    return page.relative_to(ROOT).as_posix()


def blocks(text: str, *languages: str) -> list[Block]:
    """The blocks of a page in the given languages (all where none is given), in order."""
    found = [
        Block(match["language"], _dedent(match["body"], len(match["indent"])), text.count("\n", 0, match.start()) + 2)
        for match in FENCE.finditer(text)
    ]
    return [block for block in found if not languages or block.language in languages]


def _dedent(body: str, indent: int) -> str:
    return "".join(line[indent:] if line[:indent].isspace() else line for line in body.splitlines(keepends=True))


def pages_with(*languages: str) -> list[Path]:
    """The pages that have a block in one of the languages."""
    return [page for page in pages() if blocks(page.read_text(encoding="utf-8"), *languages)]
