"""What README and docs show is run, and what they generate is fresh."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import Block, blocks, page_name, pages, pages_with
from tools import render

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


def test_links_between_pages_lead_somewhere() -> None:
    link = re.compile(r"\]\((?P<target>[^)#\s]+)(?:#[\w-]*)?\)")
    dead = [
        f"{page_name(page)}: {match['target']}"
        for page in pages()
        for match in link.finditer(page.read_text(encoding="utf-8"))
        if "://" not in match["target"] and not (page.parent / match["target"]).exists()
    ]
    assert not dead, f"links to files that are not there: {dead}"
