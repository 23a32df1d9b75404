"""Python functions as tools: their definitions for the model, and calls checked against them."""

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, cast

from seed_oss.chat.python_tools_docstring import read_docstring
from seed_oss.chat.python_tools_types import mismatch, type_schema
from seed_oss.errors import InputError

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_Kind = inspect._ParameterKind  # pyright: ignore[reportPrivateUsage] - the enum has no public name
_UNNAMED = {
    _Kind.POSITIONAL_ONLY: "can be given by position only",
    _Kind.VAR_POSITIONAL: "takes any number of values",
    _Kind.VAR_KEYWORD: "takes any names",
}


@dataclass(frozen=True)
class PythonTool:
    """A function that a model may call.

    Args:
        name: what the model calls it.
        function: what runs.
        definition: the tool as OpenAI's API takes it.
    """

    name: str
    function: Callable[..., Any]
    definition: dict[str, Any]

    @classmethod
    def of(cls, function: Callable[..., Any], name: str | None = None) -> "PythonTool":
        """Describe a function by its signature, its type hints and its docstring in Google's form.

        Args:
            function: every parameter has a type hint and can be given by name; those with a default may be left out.
            name: what the model calls it; the function's own name by default.

        Raises:
            InputError: what cannot be described, by function and parameter.
        """
        name = function.__name__ if name is None else name
        if not _NAME.fullmatch(name):
            raise InputError(f"the tool {name!r:.80} needs another name: 1 to 64 of A-Z a-z 0-9 _ -")
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise InputError(f"{name}() is async; a tool must be an ordinary function")
        described = read_docstring(inspect.getdoc(function))
        hints = _type_hints(function, name)
        properties: dict[str, Any] = {}
        required: list[str] = []
        for parameter in inspect.signature(function).parameters.values():
            schema = _parameter_schema(parameter, hints, f"the parameter {parameter.name!r} of {name}()")
            text = described.parameters.get(parameter.name)
            properties[parameter.name] = {**schema, **({"description": text} if text else {})}
            required += [parameter.name] if parameter.default is parameter.empty else []
        parameters = {"type": "object", "properties": properties, "required": required}
        fields = {"name": name, "description": described.description, "parameters": parameters}
        return cls(name, function, {"type": "function", "function": fields})

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Hold the arguments of a call to the signature.

        Args:
            arguments: plain data by name.

        Raises:
            InputError: an argument that there is not, that is missing, or of another type. The message is written for
                the model.
        """
        parameters = self.definition["function"]["parameters"]
        properties: dict[str, Any] = parameters["properties"]
        unknown = [name for name in arguments if name not in properties]
        missing = [name for name in parameters["required"] if name not in arguments]
        if unknown or missing:
            said = f"has no parameter {unknown[0]!r:.80}" if unknown else f"needs the parameter {missing[0]!r}"
            raise InputError(f"{self.name} {said}; its parameters: {', '.join(properties) or 'none'}")
        for name, value in arguments.items():
            problem = mismatch(value, properties[name], name)
            if problem is not None:
                raise InputError(problem)

    def __call__(self, arguments: Mapping[str, Any]) -> Any:
        """Run the function.

        Args:
            arguments: plain data by name.

        Returns:
            What it returns.

        Raises:
            InputError: see `check`.
        """
        self.check(arguments)
        return self.function(**arguments)


def public_functions(module: ModuleType) -> list[PythonTool]:
    """A module's public functions as tools: those defined in it whose names do not start with `_`.

    Args:
        module: any module.

    Raises:
        InputError: there is none, or one that cannot be described.
    """
    found = {
        name: cast("Callable[..., Any]", value)
        for name, value in vars(module).items()
        if not name.startswith("_") and inspect.isfunction(value) and value.__module__ == module.__name__
    }
    if not found:
        raise InputError(f"{module.__file__} defines no function whose name does not start with _; write one")
    return [PythonTool.of(function, name) for name, function in found.items()]


def _type_hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception as error:  # evaluates what the file's author wrote as a string
        raise InputError(f"a type hint of {name}() has no meaning: {error}") from error


def _parameter_schema(parameter: inspect.Parameter, hints: Mapping[str, Any], place: str) -> dict[str, Any]:
    if parameter.kind in _UNNAMED:
        raise InputError(f"{place} {_UNNAMED[parameter.kind]}, which no model is told; take ordinary parameters only")
    if parameter.name not in hints:
        raise InputError(f"{place} has no type hint; write for example `{parameter.name}: str`")
    schema = type_schema(hints[parameter.name], place)
    if isinstance(parameter.default, str | int | float) and mismatch(parameter.default, schema, "") is None:
        schema["default"] = parameter.default
    return schema
