"""Reading `quantization_config` of a config.json that anybody may have written: types and bounds of every field."""

from collections.abc import Mapping
from typing import Any

from seed_oss.errors import ConfigError, UnsupportedModelError
from seed_oss.files.names import short

MAX_KEYS = 4_096
MAX_NAMES = 16_384
MAX_NAME_LEN = 1_024
MAX_GROUP = 1 << 20
_NOTHING = (None, False, "", [], {}, ())
_SHOWN_INT = 10**18


class Fields:
    """The fields of one JSON object. What was not read and is not known to be idle is refused at the end.

    Args:
        content: the object, unchecked.
        where: its name, for messages.

    Raises:
        ConfigError: it is no object, or has too many keys.
    """

    def __init__(self, content: object, where: str = "quantization_config") -> None:
        if not isinstance(content, Mapping):
            raise ConfigError(f"{where} is {shown(content)}; it must be an object with string keys")
        if len(content) > MAX_KEYS or not all(isinstance(key, str) for key in content):
            raise ConfigError(f"{where} has {len(content)} keys; at most {MAX_KEYS}, all of them strings, are allowed")
        self.where = where
        self.content: dict[str, Any] = dict(content)
        self._read: set[str] = set()

    def get(self, name: str) -> Any:
        """The value as it is; None where it is missing."""
        self._read.add(name)
        return self.content.get(name)

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """An integer within bounds, both included."""
        value = self.get(name)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.wrong(name, value, f"an integer from {low} to {high}")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false."""
        value = self.get(name)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self.wrong(name, value, "true or false")
        return value

    def text(self, name: str, default: str = "") -> str:
        """A short string, in lower case."""
        value = self.get(name)
        value = default if value is None else value
        if not isinstance(value, str) or len(value) > MAX_NAME_LEN:
            raise self.wrong(name, value, "a short string")
        return value.lower()

    def names(self, name: str) -> tuple[str, ...]:
        """Names or patterns of modules. They are shown, not matched: the stored tensors say what is quantized."""
        value = self.get(name)
        if value is None:
            return ()
        if (
            not isinstance(value, list)
            or len(value) > MAX_NAMES
            or not all(isinstance(item, str) and len(item) <= MAX_NAME_LEN for item in value)
        ):
            raise self.wrong(name, value, f"a list of at most {MAX_NAMES} short strings")
        return tuple(value)

    def pair(self, name: str, low: int, high: int) -> tuple[int, int] | None:
        """Two integers within bounds, as a list; None where it is missing."""
        value = self.get(name)
        if value is None:
            return None
        if (
            not isinstance(value, list | tuple)
            or len(value) != 2
            or not all(isinstance(item, int) and not isinstance(item, bool) and low <= item <= high for item in value)
        ):
            raise self.wrong(name, value, f"two integers from {low} to {high}")
        return value[0], value[1]

    def section(self, name: str) -> "Fields | None":
        """A nested object; None where it is missing."""
        value = self.get(name)
        return None if value is None else Fields(value, f"{self.where}.{name if len(name) <= 60 else name[:60]}")

    def group_size(self, default: int | None = None) -> int | None:
        """group_size, where -1 is a whole row: None."""
        value = self.integer("group_size", -1, MAX_GROUP, default)
        if value == 0:
            raise self.wrong("group_size", value, "positive, or -1 for whole rows")
        return None if value == -1 else value

    def finish(self, idle: frozenset[str] = frozenset()) -> None:
        """Refuse what was neither read nor is known to change no weight, unless it is null, false or empty.

        Raises:
            UnsupportedModelError: names the first such field.
        """
        for name, value in self.content.items():
            if name in self._read or name in idle or (value in _NOTHING and not _is_zero(value)):
                continue
            raise UnsupportedModelError(
                f"{self.where}.{escaped_name(name)} is {shown(value)}; this setting is not known here and may change "
                "the weights; load the bfloat16 original"
            )

    def wrong(self, name: str, value: object, wanted: str) -> ConfigError:
        """The error for a field of a wrong type or beyond its bounds."""
        return ConfigError(f"{self.where}.{name} is {shown(value)}; it must be {wanted}")


def _is_zero(value: object) -> bool:
    """0 == False, but 0 is a setting."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def escaped_name(name: str) -> str:
    """A key for a message."""
    return name if name.isidentifier() and len(name) <= 60 else short(name)


def shown(value: object) -> str:
    """A value of any kind for a message; containers by their kind only."""
    if isinstance(value, str):
        return short(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= _SHOWN_INT:
        return "a huge integer"
    if value is None or isinstance(value, int | float):
        return repr(value)
    return f"a {type(value).__name__}"
