"""Python functions as tools."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Optional

import pytest

from seed_oss.chat.python_tools import PythonTool, public_functions
from seed_oss.chat.python_tools_docstring import read_docstring
from seed_oss.chat.tool_choice import tool_functions
from seed_oss.chat.tool_values import ToolTypes
from seed_oss.errors import InputError


def book(
    city: str,
    nights: int,
    rooms: list[int],
    price: float = 80,
    board: Literal["none", "half"] = "none",
    notes: Optional[str] = None,  # noqa: UP045 - the older spelling counts too
    extras: dict[str, bool] | None = None,
    floor: Literal[1, 2] | None = None,
) -> str:
    """Book a hotel.

    Prices are in euros.

    Args:
        city: Where, as
            on a map.
        nights (int): How many nights: one at least.
        rooms: Beds of each room.

    Returns:
        A number: the booking's.
    """
    return json.dumps([city, nights, rooms, price, board, notes, extras, floor])


GIVEN = {"city": "Rome", "nights": 2, "rooms": [1, 2]}


def test_a_definition() -> None:
    function = PythonTool.of(book).definition["function"]
    assert PythonTool.of(book).definition["type"] == "function"
    assert (function["name"], function["description"]) == ("book", "Book a hotel.\n\nPrices are in euros.")
    assert function["parameters"] == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Where, as on a map."},
            "nights": {"type": "integer", "description": "How many nights: one at least."},
            "rooms": {"type": "array", "items": {"type": "integer"}, "description": "Beds of each room."},
            "price": {"type": "number", "default": 80},
            "board": {"type": "string", "enum": ["none", "half"], "default": "none"},
            "notes": {"type": ["string", "null"]},
            "extras": {"type": ["object", "null"], "additionalProperties": {"type": "boolean"}},
            "floor": {"type": ["integer", "null"], "enum": [1, 2, None]},
        },
        "required": ["city", "nights", "rooms"],
    }


def test_the_parser_and_the_grammars_read_the_definition() -> None:
    definition = PythonTool.of(book).definition
    assert tool_functions([definition])[0].name == "book"
    types = ToolTypes([definition])
    assert types.of("book", "nights").convert("3") == (3, True)
    assert types.of("book", "floor").convert("None") == (None, True)
    assert types.of("book", "extras").convert("{'bar': True}") == ({"bar": True}, True)


def test_a_call() -> None:
    tool = PythonTool.of(book)
    assert json.loads(tool(GIVEN)) == ["Rome", 2, [1, 2], 80, "none", None, None, None]
    full = {**GIVEN, "price": 2.5, "board": "half", "notes": None, "extras": {"bar": True}, "floor": 2}
    assert json.loads(tool(full)) == list(full.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nights": "two"}, "nights is 'two'; it must be of type integer"),
        ({"nights": True}, "nights is True"),
        ({"nights": 2.5}, "nights is 2.5"),
        ({"price": True}, "price is True; it must be of type number"),
        ({"rooms": [1, "2"]}, r"rooms\[1\] is '2'; it must be of type integer"),
        ({"extras": {"bar": 1}}, r"extras\.bar is 1; it must be of type boolean"),
        ({"board": "full"}, "board is 'full'; allowed: 'none', 'half'"),
        ({"floor": True}, "floor is True; allowed: 1, 2, None"),
        ({"city": None}, "city is None"),
        ({"town": "Rome"}, "book has no parameter 'town'; its parameters: city, nights"),
    ],
)
def test_arguments_are_held_to_the_signature(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PythonTool.of(book)({**GIVEN, **change})


def test_a_missing_argument() -> None:
    with pytest.raises(InputError, match="book needs the parameter 'nights'"):
        PythonTool.of(book)({"city": "Rome", "rooms": []})


def no_hint(a) -> None:  # type: ignore[no-untyped-def]
    pass


def tuples(a: tuple[int, int]) -> None:
    pass


def anything(a: Any) -> None:
    pass


def union(a: int | str) -> None:
    pass


def numbered(a: dict[int, str]) -> None:
    pass


def many(*values: int) -> None:
    pass


def named(**values: int) -> None:
    pass


def by_position(a: int, /) -> None:
    pass


def unknown_name(a: "NoSuchName") -> None:  # type: ignore[name-defined]  # noqa: F821
    pass


def floats(a: Literal[b"x"]) -> None:
    pass


async def later(a: int) -> None:
    pass


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (no_hint, r"the parameter 'a' of no_hint\(\) has no type hint; write for example `a: str`"),
        (tuples, r"the parameter 'a' of tuples\(\) is of type tuple\[int, int\], which cannot be described"),
        (anything, r"the parameter 'a' of anything\(\) is of type Any"),
        (union, r"the parameter 'a' of union\(\) is of type int \| str, a union"),
        (numbered, r"the parameter 'a' of numbered\(\) is of type dict\[int, str\]"),
        (many, r"the parameter 'values' of many\(\) takes any number of values"),
        (named, r"the parameter 'values' of named\(\) takes any names"),
        (by_position, r"the parameter 'a' of by_position\(\) can be given by position only"),
        (unknown_name, r"a type hint of unknown_name\(\) has no meaning: name 'NoSuchName'"),
        (floats, r"the parameter 'a' of floats\(\) allows b'x'"),
        (later, r"later\(\) is async"),
    ],
)
def test_what_cannot_be_described_is_named(function: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PythonTool.of(function)


def module(text: str, path: Path) -> ModuleType:
    made = ModuleType("its_tools")
    made.__file__ = str(path)
    exec(text, vars(made))  # noqa: S102 - written here
    return made


def test_public_functions(tmp_path: Path) -> None:
    text = (
        "from json import dumps\ndef one(a: int) -> int:\n    return a\ndef _two() -> int:\n    return 2\nTHREE = 3\n"
    )
    text += "class Four:\n    pass\n"
    (tool,) = public_functions(module(text, tmp_path))
    assert (tool.name, tool({"a": 1})) == ("one", 1)
    with pytest.raises(InputError, match="defines no function"):
        public_functions(module("from json import dumps", tmp_path))
    with pytest.raises(InputError, match="needs another name"):
        public_functions(module("def größe() -> int:\n    return 2\n", tmp_path))


@pytest.mark.parametrize(
    ("text", "description", "parameters"),
    [
        (None, "", {}),
        ("One line.", "One line.", {}),
        ("Args:\n    a: x", "", {"a": "x"}),
        (
            "Do.\n\nRaises:\n    Error: a\n\nArgs:\n  a (int, optional): x: y\n  *b: z\n\n    more",
            "Do.",
            {"a": "x: y", "b": "z more"},
        ),
        ("Note: args: are\n\nArgs:\n    no item here\n    a:\n        below", "Note: args: are", {"a": "below"}),
        ("Do.\n\nArgs:\nReturns:\n    a: b", "Do.", {}),
    ],
)
def test_docstrings(text: str | None, description: str, parameters: dict[str, str]) -> None:
    described = read_docstring(text)
    assert (described.description, described.parameters) == (description, parameters)
