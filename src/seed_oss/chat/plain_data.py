"""What a template may see: plain data, rebuilt from what the caller gave."""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any, cast

from seed_oss.errors import TemplateError

_SCALARS = (str, int, float, bool, type(None))


def plain_data(value: Any, place: str) -> Any:
    """Copy a value, keeping nothing but None, bool, int, float, str, list, tuple and dict.

    Subclasses become their base, numpy numbers become Python's, dataclasses and pydantic models become dicts; so no
    method of a foreign object can be called by a template.

    Args:
        value: The value.
        place: Where it stands, for messages.

    Raises:
        TemplateError: It holds something else, or is nested too deeply.
    """
    try:
        return _plain(value, place)
    except RecursionError:
        raise TemplateError(f"{place} is nested too deeply, or contains itself") from None


def _plain(value: Any, place: str) -> Any:
    if type(value) in _SCALARS:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        return {_plain(key, place): _plain(item, f"{place}[{key!r:.40}]") for key, item in items}
    if isinstance(value, list | tuple):
        rows = [_plain(item, f"{place}[{index}]") for index, item in enumerate(cast("list[Any]", value))]
        return tuple(rows) if isinstance(value, tuple) else rows
    return _plain(_opened(value, place), place)


def _opened(value: Any, place: str) -> Any:
    """An object of a known kind as the data it stands for."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        return value.item()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump()
    raise TemplateError(
        f"{place} is a {type(value).__name__}; a chat template takes text, numbers, lists and mappings of these"
    )
