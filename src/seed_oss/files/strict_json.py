"""Strict JSON for files that nobody has checked.

The parsing is done by the C scanner of the standard library; the bounds that it lacks (depth, number of values) are
checked before it by a linear scan, the rest by its hooks. Nothing of the input but a short name gets into a message.
"""

import json
import math
import re
from contextlib import nullcontext
from typing import Any

from seed_oss._collector import collector_paused
from seed_oss.errors import CheckpointError
from seed_oss.files.names import short

MAX_JSON_BYTES = 8 * 2**20  # config.json and the like
MAX_TOKENIZER_JSON_BYTES = 64 * 2**20  # tokenizer.json: 12 MB for 155 k words, 33 MB for 262 k
MAX_DEPTH = 64
MAX_NUMBER_LEN = 64
MAX_VALUES = 4_000_000
MAX_CONFIG_VALUES = 400_000  # for files that are worked on key by key in Python
_LARGE = 2**20  # characters; a pause moves all that is young to where it is looked at last, so it has to be rare

_NOT_STRUCTURE = bytes(code for code in range(256) if code not in b"[]{},")
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


class _RefusedError(ValueError):
    """A reason found inside a hook of the scanner."""


def parse_json(
    data: bytes | str,
    *,
    source: str,
    max_bytes: int = MAX_JSON_BYTES,
    max_values: int = MAX_VALUES,
    max_depth: int = MAX_DEPTH,
) -> Any:
    """Parse JSON strictly.

    Args:
        data: UTF-8 bytes without a byte order mark, or text.
        source: Name of the file (or other origin) for messages.
        max_bytes: Largest accepted size in bytes.
        max_values: Largest accepted number of commas and brackets, and of quotation marks, which bounds the memory that
            parsing takes.
        max_depth: Most levels of lists and objects, 64 at most.

    Returns:
        dict, list, str, int, float, bool or None.

    Raises:
        CheckpointError: Not JSON, or a bound is exceeded: depth 64, 64 characters a number, finite numbers only, no
            duplicate keys, no lone surrogates.
    """
    try:
        raw = data.encode("utf-8") if isinstance(data, str) else data
        if len(raw) > max_bytes:
            raise CheckpointError(f"{source} has {len(raw)} bytes; the limit is {max_bytes}")
        text = data if isinstance(data, str) else raw.decode("utf-8")
    except UnicodeError:
        raise CheckpointError(f"{source} is not valid UTF-8; save it as UTF-8") from None
    if text.startswith("\ufeff"):
        raise CheckpointError(f"{source} starts with a byte order mark; save it as UTF-8 without one")
    _check_structure(raw, source, max_values, max_depth)
    value = _scan(text, source)
    if _SURROGATE_ESCAPE.search(raw):
        _check_surrogates(value, source)
    return value


def _check_structure(raw: bytes, source: str, max_values: int, max_depth: int) -> None:
    """Bound depth and number of values before anything is built, in time linear in the size."""
    if raw.count(b'"') > max_values:
        raise CheckpointError(f"{source} holds more than {max_values} quotation marks, the limit")
    if raw.count(b"[") + raw.count(b"{") <= max_depth and raw.count(b",") <= max_values:
        return
    structure = _without_strings(raw).translate(None, _NOT_STRUCTURE)
    if len(structure) > max_values:
        raise CheckpointError(f"{source} holds more than {max_values} commas and brackets, the limit")
    brackets = structure.translate(bytes.maketrans(b"{}", b"[]"), b",")
    # Removing the innermost pairs lowers the depth by one: what is empty after n rounds is at most n deep.
    for _ in range(max_depth):
        rest = brackets.replace(b"[]", b"")
        if len(rest) == len(brackets):
            break
        brackets = rest
    # At most `max_depth` brackets left over are a plain syntax error, which the scanner reports with its place.
    if len(brackets) > max_depth or b"[]" in brackets:
        raise CheckpointError(f"{source} is nested deeper than {max_depth} levels, the limit")


def _without_strings(raw: bytes) -> bytes:
    """What stands outside the strings. Exact up to the first syntax error, where the scanner stops anyway."""
    return b"".join(raw.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2])


def _scan(text: str, source: str) -> Any:
    try:
        with collector_paused() if len(text) >= _LARGE else nullcontext():
            return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise CheckpointError(
            f"{source} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except _RefusedError as error:
        raise CheckpointError(f"{source}: {error}") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _RefusedError(f"key {short(key)} stands twice in one object; keep one of them")
            seen.add(key)
    return result


def _integer(text: str) -> int:
    return int(_checked_number(text))


def _finite(text: str) -> float:
    value = float(_checked_number(text))
    if not math.isfinite(value):
        raise _RefusedError(f"number {short(text)} is too large for a float")
    return value


def _checked_number(text: str) -> str:
    if len(text) > MAX_NUMBER_LEN:
        raise _RefusedError(f"a number of {len(text)} characters; the limit is {MAX_NUMBER_LEN}")
    return text


def _no_constant(text: str) -> None:
    raise _RefusedError(f"{text} is not JSON; only finite numbers are allowed")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_keys, parse_int=_integer, parse_float=_finite, parse_constant=_no_constant
)


def _check_surrogates(value: Any, source: str) -> None:
    todo: list[Any] = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            _check_encodable(item, source)
        elif isinstance(item, list):
            todo.extend(item)  # pyright: ignore[reportUnknownArgumentType]
        elif isinstance(item, dict):
            todo.extend(item.keys())  # pyright: ignore[reportUnknownArgumentType]
            todo.extend(item.values())  # pyright: ignore[reportUnknownArgumentType]


def _check_encodable(text: str, source: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise CheckpointError(f"{source} holds a lone surrogate (half of an escaped character)") from None
