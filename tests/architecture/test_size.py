"""Small units: a function of 100 lines or a file of 700 fails."""

import ast

from tests.architecture.source import name_of, python_files, tree_of

MAX_FUNCTION_LINES = 99
MAX_FILE_LINES = 699


def function_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the last one, both included."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_no_function_is_too_long() -> None:
    found = [
        f"{name_of(path)}:{node.lineno} {node.name} has {function_lines(node)} lines"
        for path in python_files()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and function_lines(node) > MAX_FUNCTION_LINES
    ]
    assert not found, f"more than {MAX_FUNCTION_LINES} lines; 5 to 12 are normal:\n" + "\n".join(found)


def test_no_file_is_too_long() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in python_files()}
    found = [f"{name} has {length} lines" for name, length in lengths.items() if length > MAX_FILE_LINES]
    assert len(lengths) > 10
    assert not found, f"more than {MAX_FILE_LINES} lines; 400 is long:\n" + "\n".join(found)


def test_a_long_function_is_seen() -> None:
    source = "def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.FunctionDef)
    assert function_lines(node) == MAX_FUNCTION_LINES + 1
