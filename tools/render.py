"""Writes the generated parts of README and docs: `python tools/render.py` writes, `--check` only tells what is stale.

A generated part stands between `<!-- generated:NAME -->` and `<!-- end:NAME -->`; NAME is a function of `sections.py`
or `reference.py` that returns its Markdown.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tools import reference, sections  # noqa: E402

SECTIONS: dict[str, Callable[[], str]] = {
    "benchmarks": sections.benchmarks,
    "engines": sections.engines,
    "engines-short": sections.engines_short,
    "quality": sections.quality,
    "serving": sections.serving,
    "goals": sections.goals,
    "where-time-goes": sections.where_time_goes,
    "supported": sections.supported,
    "decisions": sections.decisions,
    "errors": sections.errors,
    "rope-types": sections.rope_types,
    "model-fields": sections.model_fields,
    "generation-fields": sections.generation_fields,
    "gguf": sections.gguf,
    "gguf_blocks": sections.gguf_blocks,
    "refused": sections.refused,
    "command-line": reference.command_line,
    "public-names": reference.public_names,
}
PART = re.compile(r"(?P<open><!-- generated:(?P<name>[\w-]+) -->\n).*?(?P<close><!-- end:(?P=name) -->)", re.DOTALL)


def pages() -> list[Path]:
    """README and every page of the docs."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def rendered(text: str) -> str:
    """A page's text with every generated part as it should be now.

    Args:
        text: The page as it is.

    Raises:
        SystemExit: A part has a name that nothing here writes.
    """

    def fill(match: re.Match[str]) -> str:
        if match["name"] not in SECTIONS:
            raise SystemExit(f"no section named {match['name']!r}; there are: {', '.join(SECTIONS)}")
        return f"{match['open']}{SECTIONS[match['name']]().strip()}\n{match['close']}"

    return PART.sub(fill, text)


def stale() -> list[Path]:
    """Pages whose generated parts are not what would be written now."""
    return [page for page in pages() if rendered(text := page.read_text(encoding="utf-8")) != text]


def main() -> None:
    """Writes the stale pages, or with `--check` only names them and fails."""
    found = stale()
    for page in found:
        print(page.relative_to(ROOT))
        if "--check" not in sys.argv:
            page.write_text(rendered(page.read_text(encoding="utf-8")), encoding="utf-8")
    if found and "--check" in sys.argv:
        raise SystemExit("stale: run python tools/render.py")


if __name__ == "__main__":
    main()
