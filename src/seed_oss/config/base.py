"""What the two config classes share: checked fields as attributes, other keys kept beside them."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self, cast

from seed_oss.config.fields import MAX_ITEMS, Field, json_copy, shown
from seed_oss.errors import ConfigError


class FieldsBase(ABC):
    """Attributes from a table of fields, each checked when it is set.

    Keys outside the table are kept apart (a key of a file can never hide a method) and read as attributes, too.
    """

    FIELDS: ClassVar[Mapping[str, Field]] = {}
    file_name: ClassVar[str] = ""

    _extra: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        # called only where normal lookup fails
        extra = vars(self).get("_extra")
        if extra is not None and name in extra:
            return extra[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        field = self.FIELDS.get(name)
        if field is not None:
            vars(self)[name] = field.check(name, value)
        elif name.startswith("_") or hasattr(type(self), name):
            object.__setattr__(self, name, value)
        else:
            self._extra[name] = json_copy(name, value)

    def __delattr__(self, name: str) -> None:
        if name in self._extra:
            del self._extra[name]
        else:
            raise AttributeError(f"{type(self).__name__}.{name} cannot be deleted")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(key for key in self._extra if key.isidentifier())})

    def __contains__(self, name: object) -> bool:
        return name in self.FIELDS or name in self._extra

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.to_dict() == self.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """All fields as a dict that shares nothing with this object."""

    @abstractmethod
    def to_diff_dict(self) -> dict[str, Any]:
        """The fields that a file needs: without those that hold their default."""

    def to_json_string(self, use_diff: bool = True) -> str:
        """The content of the JSON file.

        Args:
            use_diff: leave out fields that hold their default.

        Raises:
            ConfigError: a value that JSON cannot hold.
        """
        return dump_json(self._for_file(self.to_diff_dict() if use_diff else self.to_dict()))

    def _for_file(self, content: dict[str, Any]) -> dict[str, Any]:
        """The content with what only a file needs."""
        return content

    def copy(self) -> Self:
        """An independent copy."""
        result = type(self).__new__(type(self))
        vars(result).update({name: json_copy(name, value) for name, value in vars(self).items()})
        return result


def check_keys(owner: str, given: object) -> dict[str, Any]:
    """`given` as a dict with string keys, a new one.

    Raises:
        ConfigError: it is something else.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(f"{owner} is {shown(given)}; it must be an object of named fields")
    mapping = cast("Mapping[Any, Any]", given)
    if len(mapping) > MAX_ITEMS:
        raise ConfigError(f"{owner} has {len(mapping)} keys; the limit is {MAX_ITEMS}")
    for key in mapping:
        if not isinstance(key, str):
            raise ConfigError(f"{owner} has the key {shown(key)}; keys must be strings")
    return dict(mapping)


def named(keys: Iterable[str]) -> str:
    """Keys as a short list for a message."""
    listed = sorted(keys)
    more = f" and {len(listed) - 20} more" if len(listed) > 20 else ""
    return ", ".join(shown(key) for key in listed[:20]) + more


def dump_json(content: dict[str, Any]) -> str:
    """The content as JSON text with sorted keys.

    Raises:
        ConfigError: a value that JSON cannot hold.
    """
    try:
        return _encodable(dict(sorted(content.items()))) + "\n"
    except (TypeError, ValueError):
        for key, value in content.items():
            _check_json(key, value)
        raise


def _check_json(key: str, value: Any) -> None:
    try:
        _encodable(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{key} is {shown(value)}, which JSON cannot hold; remove it or make it plain data") from None


def _encodable(value: Any) -> str:
    result = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    result.encode()  # fails on lone surrogates, which no reader accepts
    return result
