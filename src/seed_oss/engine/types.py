"""Whether a value that came as JSON is of the type that a dataclass says. No torch."""

from collections.abc import Callable, Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

Check = Callable[[Any], bool]


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type.

    Args:
        value: JSON with tuples in the place of lists, or an object.
        hint: a class, a union, a Literal, `tuple[X, ...]`, a Mapping from texts, or Any. An int is a float, and no
            bool is a number.
    """
    return _check(hint)(value)


@cache
def _check(hint: Any) -> Check:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return lambda _: True
    if origin in (Union, UnionType):
        checks = [_check(one) for one in arguments]
        return lambda value: any(check(value) for check in checks)
    if origin is Literal:
        return lambda value: isinstance(value, str) and value in arguments
    if origin is tuple:
        return _all_of(_check(arguments[0]))
    if origin is not None and issubclass(origin, Mapping):
        return _mapping_of(_check(arguments[1]) if arguments else _check(Any))
    return _of_class(NoneType if hint is None else hint)


def _all_of(check: Check) -> Check:
    return lambda value: isinstance(value, tuple) and all(map(check, value))  # type: ignore[arg-type]


def _mapping_of(check: Check) -> Check:
    return lambda value: isinstance(value, Mapping) and all(map(check, value.values()))  # type: ignore[arg-type]


def _of_class(kind: type[Any]) -> Check:
    if kind is int:
        return lambda value: type(value) is int
    if kind is float:
        return lambda value: type(value) in (int, float)
    return lambda value: isinstance(value, kind)
