"""What README and docs show is run, and what they generate is fresh."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import ROOT, Block, blocks, page_name, pages, pages_with
from tools import reference, render

KNOWN_LANGUAGES = {"python", "bash", "text", "toml", "json", "mermaid"}
COMMAND = re.compile(r"^seed-oss .*", re.MULTILINE)


def run_block(block: Block, page: Path, namespace: dict[str, Any]) -> None:
    """Runs a Python block; its lines count from the page's, so that a traceback shows the page."""
    code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
    exec(code, namespace)  # noqa: S102  the page is ours


@pytest.mark.parametrize("page", pages_with("python"), ids=page_name)
def test_python_blocks_run(page: Path, reader: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page.read_text(encoding="utf-8"), "python"):
        if not block.needs_server:
            run_block(block, page, namespace)


def commands() -> list[Any]:
    """Every `seed-oss ...` line of a bash block, as a test case of its page."""
    return [
        pytest.param(command, id=f"{page_name(page)}: {command}")
        for page in pages_with("bash")
        for block in blocks(page.read_text(encoding="utf-8"), "bash")
        for command in COMMAND.findall(block.text)
    ]


@pytest.mark.parametrize("command", commands())
def test_commands_run(command: str, reader: Path, tiny_directory: Path) -> None:
    done = run_command(command, reader)
    assert done.returncode == 0, done.stderr


def run_command(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs one `seed-oss ...` line of a page in `folder`, with nothing on standard input."""
    program, *words = shlex.split(command, comments=True)
    script = str(Path(sys.executable).parent / program)
    return subprocess.run(
        [script, *words],
        capture_output=True,
        text=True,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        env=os.environ,
        timeout=120,
    )


def test_the_demos_answer_in_the_readme_is_real(reader: Path) -> None:
    (shown,) = [
        block.text
        for block in blocks((ROOT / "README.md").read_text(encoding="utf-8"), "text")
        if block.text.startswith("$ make demo")
    ]
    done = run_command("seed-oss generate --model demo -- 'What is the capital of France?'", reader)
    assert done.stdout.strip() in shown.splitlines(), "the answer is another one"
    speed = re.sub(r"[\d.]+", "N", done.stderr.strip().splitlines()[-1])
    assert speed in [re.sub(r"[\d.]+", "N", line) for line in shown.splitlines()], "the last line is another one"


def test_every_block_names_its_language() -> None:
    found = [
        f"{page_name(page)}:{block.line} {block.language or 'no language'}"
        for page in pages()
        for block in blocks(page.read_text(encoding="utf-8"))
        if block.language not in KNOWN_LANGUAGES
    ]
    assert not found, f"a block's language decides how it is tested; known are {KNOWN_LANGUAGES}: {found}"


def test_generated_parts_are_fresh() -> None:
    found = [page_name(page) for page in render.stale()]
    assert not found, f"run make render: {found}"


def test_a_stale_part_is_seen() -> None:
    text = "<!-- generated:errors -->\nold\n<!-- end:errors -->"
    assert render.rendered(text) != text
    assert render.rendered(render.rendered(text)) == render.rendered(text)


def test_the_reference_shows_every_public_name() -> None:
    assert reference.ungrouped() == []


def test_the_nav_has_every_page() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = [page for page in sorted((ROOT / "docs").rglob("*.md")) if not page.name[0].isdigit()]
    assert [page_name(page) for page in listed if page.relative_to(ROOT / "docs").as_posix() not in nav] == []


def test_what_is_supported_is_tested() -> None:
    rows = json.loads((ROOT / "docs" / "supported.json").read_text(encoding="utf-8"))
    assert len(rows) > 10
    for row in rows:
        for test in row["shown_by"]:
            path = ROOT / test
            assert path.is_dir() or "def test_" in path.read_text(encoding="utf-8"), f"{row['what']}: {test}"


def test_links_between_pages_lead_somewhere() -> None:
    link = re.compile(r"\]\((?P<target>[^)#\s]+)(?:#[\w-]*)?\)")
    dead = [
        f"{page_name(page)}: {match['target']}"
        for page in pages()
        for match in link.finditer(page.read_text(encoding="utf-8"))
        if "://" not in match["target"] and not (page.parent / match["target"]).exists()
    ]
    assert not dead, f"links to files that are not there: {dead}"
