"""What the architecture tests look at: the project's own Python files, parsed once."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "seed_oss"
FOLDERS = ("src", "tests", "benchmarks", "examples", "tools")


@cache
def python_files(*folders: str) -> tuple[Path, ...]:
    """Every Python file under the given folders of the repository (all of ours by default), sorted."""
    found = (path for folder in folders or FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return tuple(sorted(found))


@cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of one file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def name_of(path: Path) -> str:
    """A file's name as messages show it, from the repository's root."""
    return path.relative_to(ROOT).as_posix()


def imports_in(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every absolute import, lazy ones and `import_module("...")` included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, node.module or ""
        elif isinstance(node, ast.Call) and called_name(node).split(".")[-1] in {"import_module", "__import__"}:
            yield from ((node.lineno, str(arg.value)) for arg in node.args if isinstance(arg, ast.Constant))


def called_name(call: ast.Call) -> str:
    """The dotted name that a call spells (`torch.load`), or an empty string where it is not a plain name."""
    parts: list[str] = []
    node: ast.expr = call.func
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""
