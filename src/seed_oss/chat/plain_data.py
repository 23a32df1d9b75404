"""What a template may see: plain data, rebuilt from what the caller gave."""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any, cast

from seed_oss.errors import TemplateError

MAX_VALUES = 1_000_000
_SCALARS = (str, int, float, bool, type(None))


def plain_data(value: Any, place: str) -> Any:
    """Copy a value, keeping nothing but None, bool, int, float, str, list, tuple and dict.

    Subclasses become their base, numpy numbers become Python's, dataclasses and pydantic models become dicts; so no
    method of a foreign object can be called by a template.

    Args:
        value: The value.
        place: Where it stands, for messages.

    Raises:
        TemplateError: It holds something else, is too deep or too large, or one of its objects cannot be read.
    """
    try:
        return _Copier(place).copied(value, place)
    except RecursionError:
        raise TemplateError(f"{place} is nested too deeply, or contains itself") from None
    except TemplateError:
        raise
    except Exception as error:  # of a foreign object's own methods
        raise TemplateError(f"{place} holds an object that cannot be read: {type(error).__name__}") from error


class _Copier:
    def __init__(self, place: str) -> None:
        self._place = place
        self._num_values = 0

    def copied(self, value: Any, place: str) -> Any:
        self._num_values += 1  # of copies: what shares itself is counted as often as it is met
        if self._num_values > MAX_VALUES:
            raise TemplateError(f"{self._place} holds more than {MAX_VALUES} values; pass shorter messages")
        return _plain(value, place, self.copied)


def _plain(value: Any, place: str, copied: Callable[[Any, str], Any]) -> Any:
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
        return {copied(key, place): copied(item, f"{place}[{key!r:.40}]") for key, item in items}
    if isinstance(value, list | tuple):
        rows = [copied(item, f"{place}[{index}]") for index, item in enumerate(cast("list[Any]", value))]
        return tuple(rows) if isinstance(value, tuple) else rows
    return copied(_opened(value, place), place)


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
