"""Which tools a client gives, and which of them the answer may or must call."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from seed_oss.chat.schema_checks import MAX_SCHEMA_DEPTH, CheckedSchema, check_schema
from seed_oss.errors import InputError

MAX_TOOLS = 128
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class ToolFunction:
    """A tool that can be called.

    Attributes:
        name: its name.
        parameters: the checked JSON schema of its arguments; its data is a dict.
    """

    name: str
    parameters: CheckedSchema


@dataclass(frozen=True)
class ToolChoice:
    """What an answer does with the tools.

    Attributes:
        mode: "none": no call; "auto": as the model likes; "required": a call must come; "named": a call of `name`.
        name: the function that must be called.
    """

    mode: Literal["none", "auto", "required", "named"]
    name: str | None = None

    @classmethod
    def of(cls, value: Any, functions: Sequence[ToolFunction] = ()) -> "ToolChoice":
        """Read `tool_choice` as OpenAI clients send it.

        Args:
            value: None, "none", "auto", "required", `{"type": "function", "function": {"name": ...}}`, the flat form of
                it, or a ToolChoice.
            functions: the tools given.

        Returns:
            For None, "auto" where there are tools.

        Raises:
            InputError: anything else, or a call is wanted of a tool that was not given.
        """
        choice = cls._read(value, bool(functions))
        names = [one.name for one in functions]
        if choice.mode in ("required", "named") and not names:
            raise InputError(f"tool_choice is {choice.mode!r}, but there are no tools; give tools, or leave it out")
        if choice.mode == "named" and choice.name not in names:
            raise InputError(f"tool_choice names the function {choice.name!r:.80}; there are {', '.join(names[:8])}")
        return choice

    @classmethod
    def _read(cls, value: Any, has_tools: bool) -> "ToolChoice":
        if value is None:
            return cls("auto" if has_tools else "none")
        if isinstance(value, ToolChoice):
            return value
        if value == "none" or value == "auto" or value == "required":
            return cls(value)
        given = cast("Mapping[str, Any]", value if isinstance(value, Mapping) else {})
        inner: Any = given.get("function", given)
        name = cast("Mapping[str, Any]", inner).get("name") if isinstance(inner, Mapping) else None
        if given.get("type") == "function" and isinstance(name, str):
            return cls("named", name)
        raise InputError(
            f"tool_choice is {value!r:.80}; it must be 'none', 'auto', 'required' or "
            '{"type": "function", "function": {"name": ...}}'
        )


def tool_functions(tools: Any, max_schema_depth: int = MAX_SCHEMA_DEPTH) -> list[ToolFunction]:
    """Check tool definitions.

    Args:
        tools: None, or a list of OpenAI tools: `{"type": "function", "function": {"name", "parameters"}}`, or the flat
            form of it. A tool without parameters takes none.
        max_schema_depth: most levels of the schema of a tool's parameters, 32 at most.

    Raises:
        InputError: more than 128 tools, a tool of another kind, a bad or repeated name, or a schema that calls could
            not be held to. The message names the place.
    """
    if tools is None:
        return []
    if not isinstance(tools, list | tuple):
        raise InputError(f"tools is a {type(tools).__name__}; it must be a list of tools")
    given = cast("Sequence[Any]", tools)
    if len(given) > MAX_TOOLS:
        raise InputError(f"there are {len(given)} tools; at most {MAX_TOOLS} are allowed")
    functions: list[ToolFunction] = []
    for index, tool in enumerate(given):
        function = _function(tool, f"tools[{index}]", max_schema_depth)
        if any(function.name == one.name for one in functions):
            raise InputError(f"tools[{index}] has the name {function.name!r} of an earlier one; names must differ")
        functions.append(function)
    return functions


def _function(tool: Any, place: str, max_schema_depth: int) -> ToolFunction:
    if not isinstance(tool, Mapping):
        raise InputError(f"{place} is a {type(tool).__name__}; it must be an object")
    outer = cast("Mapping[str, Any]", tool)
    if outer.get("type", "function") != "function":
        raise InputError(f"{place}.type is {outer['type']!r:.60}; only 'function' can be called here")
    inner = outer.get("function", outer)
    if not isinstance(inner, Mapping):
        raise InputError(f"{place}.function is a {type(inner).__name__}; it must be an object")
    function = cast("Mapping[str, Any]", inner)
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(f"{place}.function.name is {name!r:.80}; it must have 1 to 64 of A-Z a-z 0-9 _ -")
    given = function.get("parameters")
    parameters = check_schema({} if given is None else given, f"{place}.function.parameters", max_schema_depth)
    if not isinstance(parameters.schema, dict):
        raise InputError(f"{parameters.place} is {parameters.schema!r}; it must be an object schema")
    return ToolFunction(name, parameters)
