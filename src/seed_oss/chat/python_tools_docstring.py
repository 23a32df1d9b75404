"""What a docstring in Google's form says of a function and of its parameters."""

import re
from dataclasses import dataclass, field

_SECTIONS = frozenset(
    ("args", "arguments", "parameters", "keyword args", "keyword arguments", "returns", "return", "yields", "raises")
    + ("example", "examples", "note", "notes", "warning", "warnings", "see also", "attributes", "references", "todo")
)
_PARAMETERS = frozenset(("args", "arguments", "parameters", "keyword args", "keyword arguments"))
_ITEM = re.compile(r"\*{0,2}(\w+) *(?:\([^)]*\))? *:(?: (.*))?")


@dataclass(frozen=True, slots=True)
class Described:
    """What a docstring says.

    Args:
        description: all before the first section, lines as they are.
        parameters: descriptions by name, each one line.
    """

    description: str = ""
    parameters: dict[str, str] = field(default_factory=dict[str, str])


def read_docstring(docstring: str | None) -> Described:
    """Read a docstring.

    Args:
        docstring: as `inspect.getdoc` gives it, without common indentation; or None.
    """
    lines = (docstring or "").splitlines()
    first = next((number for number, line in enumerate(lines) if _section(line)), len(lines))
    parameters: dict[str, str] = {}
    section = None
    body: list[str] = []
    for line in [*lines[first:], "args:"]:  # a last heading, so that the last body is read
        heading = _section(line)
        if heading is None:
            body.append(line)
            continue
        if section in _PARAMETERS:
            parameters |= _items(body)
        section, body = heading, []
    return Described("\n".join(lines[:first]).strip(), parameters)


def _section(line: str) -> str | None:
    """The name of the section that a line opens."""
    name = line.rstrip().removesuffix(":").lower()
    return name if line.rstrip().endswith(":") and name in _SECTIONS else None


def _items(lines: list[str]) -> dict[str, str]:
    """`name (type): text` by name; deeper lines go on with the text."""
    written = [line for line in lines if line.strip()]
    indent = min((_indent(line) for line in written), default=0)
    items: dict[str, list[str]] = {}
    current: list[str] = []
    for line in written:
        found = _ITEM.fullmatch(line.strip()) if _indent(line) == indent else None
        if found is not None:
            current = items[found[1]] = [found[2] or ""]
        else:
            current.append(line.strip())
    return {name: " ".join(part for part in parts if part) for name, parts in items.items()}


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
