"""Checks on single values of a config: each returns the value in its stored form, or raises a ConfigError.

A check is a function `(field, value) -> stored value`. `Field` pairs one with the default. Types are strict as in the
reference's own validation (a bool is not an int), but an int is accepted where a float is meant.
"""

import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from seed_oss.errors import ConfigError

Check = Callable[[str, Any], Any]

MAX_SIZE = 2**31 - 1
"""Largest size of one dimension: what a 32-bit index can address."""
MAX_LAYERS = 10_000
MAX_LABELS = 2**16
MAX_ITEMS = 2**14  # of a list, and of the keys of a config
MAX_JSON_DEPTH = 64

_DTYPE_ALIASES = {"half": "float16", "float": "float32", "double": "float64"}
DTYPE_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int8": 1,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
}
"""Bytes per element of every dtype a config may name."""


@dataclass(frozen=True, slots=True)
class Field:
    """Default and check of one config field."""

    default: Any
    check: Check


class _Shown(reprlib.Repr):
    """repr() that stays short and cannot fail on huge integers."""

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() <= 128 else f"<integer of {x.bit_length()} bits>"


_SHOWN = _Shown()
_SHOWN.maxstring = _SHOWN.maxother = 80


def shown(value: object) -> str:
    """The value as an error message shows it: one short line."""
    return _SHOWN.repr(value)


def refuse(field: str, value: object, allowed: str) -> NoReturn:
    """Raise the ConfigError that names field, value and what is allowed."""
    raise ConfigError(f"{field} is {shown(value)}; it must be {allowed}")


def optional(check: Check) -> Check:
    """`check`, or None."""

    def run(field: str, value: Any) -> Any:
        return None if value is None else check(field, value)

    return run


def integer(low: int, high: int = MAX_SIZE) -> Check:
    """An int (never a bool) from low to high, both included."""
    allowed = f"an integer from {low} to {high}"

    def run(field: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            refuse(field, value, allowed)
        return value

    return run


def number(low: float = -math.inf, high: float = math.inf, *, above: bool = False) -> Check:
    """A finite int or float from low to high, stored as a float; `above` leaves out low itself."""
    upper = "" if high == math.inf else f" and at most {high:g}"
    allowed = f"a finite number {'greater than' if above else 'of at least'} {low:g}{upper}"

    def run(field: str, value: Any) -> float:
        result = as_float(value)
        if result is None or not low <= result <= high or (above and result == low):
            refuse(field, value, allowed)
        return result

    return run


def as_float(value: object) -> float | None:
    """The value as a finite float, or None if it is not one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        result = float(value)
    except OverflowError:
        return None
    return result if math.isfinite(result) else None


def boolean(field: str, value: Any) -> bool:
    """True or False, not 0 or 1."""
    if not isinstance(value, bool):
        refuse(field, value, "true or false")
    return value


def text(field: str, value: Any) -> str:
    """A non-empty str."""
    if not isinstance(value, str) or not value:
        refuse(field, value, "a non-empty string")
    return value


def choice(*names: str) -> Check:
    """One of the strings given."""
    allowed = "one of " + ", ".join(repr(name) for name in names)

    def run(field: str, value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            refuse(field, value, allowed)
        return value

    return run


def list_of(check: Check) -> Check:
    """A list or tuple whose items all pass `check`, stored as a new list."""

    def run(field: str, value: Any) -> list[Any]:
        if not isinstance(value, list | tuple):
            refuse(field, value, "a list")
        items = cast("Sequence[Any]", value)
        if len(items) > MAX_ITEMS:
            raise ConfigError(f"{field} has {len(items)} items; the limit is {MAX_ITEMS}")
        return [check(f"{field}[{index}]", item) for index, item in enumerate(items)]

    return run


def either(single: Check, many: Check) -> Check:
    """`many` for a list or tuple, else `single`."""

    def run(field: str, value: Any) -> Any:
        return many(field, value) if isinstance(value, list | tuple) else single(field, value)

    return run


def dtype_name(field: str, value: Any) -> str:
    """A dtype as its plain name: `torch.bfloat16`, "torch.bfloat16" and "bfloat16" give "bfloat16".

    torch is not imported: a torch dtype is known by how it prints.
    """
    name = value if isinstance(value, str) else str(value) if type(value).__module__ == "torch" else ""
    name = name.removeprefix("torch.")
    name = _DTYPE_ALIASES.get(name, name)
    if name not in DTYPE_BYTES:
        refuse(field, value, "a torch dtype or one of " + ", ".join(DTYPE_BYTES))
    return name


def id_to_label(field: str, value: Any) -> dict[int, str]:
    """A mapping of label ids (ints, or their decimal strings as JSON writes them) to names."""
    items = _mapping(field, value, f"an object of 1 to {MAX_LABELS} label ids and names")
    if not 1 <= len(items) <= MAX_LABELS:
        refuse(field, items, f"an object of 1 to {MAX_LABELS} label ids and names")
    if not all(isinstance(name, str) and name for name in items.values()):
        for key, name in items.items():
            text(f"{field}[{shown(key)}]", name)
    return {_label_id(f"{field} key", key): name for key, name in items.items()}


def label_to_id(field: str, value: Any) -> dict[str, int]:
    """A mapping of label names to ids."""
    items = _mapping(field, value, "an object of label names and ids")
    if len(items) > MAX_LABELS:
        refuse(field, items, f"an object of at most {MAX_LABELS} label names and ids")
    if all(type(index) is int and 0 <= index <= MAX_SIZE for index in items.values()):
        return {text(f"{field} key", name): index for name, index in items.items()}
    return {text(f"{field} key", name): _label_id(f"{field}[{shown(name)}]", index) for name, index in items.items()}


def _mapping(field: str, value: Any, allowed: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        refuse(field, value, allowed)
    return cast("Mapping[Any, Any]", value)


def _label_id(field: str, value: Any) -> int:
    is_digits = isinstance(value, str) and value.isdecimal() and len(value) < 12
    return integer(0)(field, int(value) if is_digits else value)


def json_copy(field: str, value: Any, depth: int = 0) -> Any:
    """A copy of a JSON-like value that shares no list or object with it; other objects are passed on as they are."""
    if depth > MAX_JSON_DEPTH:
        raise ConfigError(f"{field} is nested deeper than {MAX_JSON_DEPTH} levels; flatten it")
    if isinstance(value, Mapping):
        mapping = cast("Mapping[Any, Any]", value)
        return {key: json_copy(field, item, depth + 1) for key, item in mapping.items()}
    if isinstance(value, list | tuple):
        return [json_copy(field, item, depth + 1) for item in cast("Sequence[Any]", value)]
    return value
