"""Writes down what users may rely on: `python -m tests.architecture.public_names` rewrites public_names.txt."""

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

FROZEN = Path(__file__).with_name("public_names.txt")
MODULES = ("seed_oss", "seed_oss.chat", "seed_oss.errors")
HEADER = "# Public names with their arguments. Add, never rename or remove: users' programs depend on these.\n"


def exported(module_name: str) -> list[str]:
    """The names a module exports, sorted."""
    module = importlib.import_module(module_name)
    names = getattr(module, "__all__", None) or [name for name, value in vars(module).items() if inspect.isclass(value)]
    return sorted(names)


def arguments_of(function: object) -> str:
    """A signature without annotations: names, kinds and which are optional are what callers depend on."""
    if not callable(function):
        return ""
    parameters = inspect.signature(function).parameters.values()
    bare = [_plain(parameter) for parameter in parameters if parameter.name != "self"]
    return str(inspect.Signature(bare))


def _plain(parameter: inspect.Parameter) -> inspect.Parameter:
    bare = parameter.replace(annotation=parameter.empty)
    simple = isinstance(bare.default, int | float | str | bool | None) or bare.default is bare.empty
    return bare if simple else bare.replace(default="...")


def methods_of(kind: type, public: set[type]) -> Iterator[str]:
    """Constructor, call and public methods that the class has from us, without those of a public base."""
    if issubclass(kind, BaseException):
        return
    names = {name for base in kind.__mro__ if base.__module__.startswith("seed_oss") for name in vars(base)}
    shown = sorted(name for name in names if not name.startswith("_") or name in {"__init__", "__call__"})
    bases = [base for base in kind.__mro__[1:] if base in public]
    for name in shown:
        member = inspect.getattr_static(kind, name)
        if name == "FIELDS" or any(inspect.getattr_static(base, name, None) is member for base in bases):
            continue
        yield f"{name}{arguments_of(getattr(kind, name))}" if _is_method(member) else name


def _is_method(member: object) -> bool:
    return inspect.isfunction(getattr(member, "__func__", member))


def lines() -> Iterator[str]:
    """One line for each public name, then one for each method of a public class; a second name is only an alias."""
    public = {kind for module in MODULES for name in exported(module) if inspect.isclass(kind := _named(module, name))}
    first_names: dict[object, str] = {}
    for module in MODULES:
        for name in exported(module):
            value, full = _named(module, name), f"{module}.{name}"
            first = first_names.setdefault(value, full)
            if first != full:
                yield f"{full} = {first}"
            elif inspect.isclass(value):
                yield full
                yield from (f"{full}.{method}" for method in methods_of(value, public))
            else:
                yield f"{full}{arguments_of(value)}"


def _named(module: str, name: str) -> object:
    return getattr(importlib.import_module(module), name)


def text() -> str:
    """The whole list as public_names.txt holds it."""
    return HEADER + "\n".join(lines()) + "\n"


if __name__ == "__main__":
    FROZEN.write_text(text(), encoding="utf-8")
