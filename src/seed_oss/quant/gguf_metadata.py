"""Typed access to a GGUF file's metadata: a value of the expected type and range, or an error that names the key."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from seed_oss.errors import CheckpointError
from seed_oss.files.names import short

if TYPE_CHECKING:
    from seed_oss.quant.gguf_header import GGUFHeader, MetadataValue


def get_int(header: GGUFHeader, key: str, default: int | None = None, *, minimum: int = 0) -> int:
    """An integer of the metadata; a per-layer array counts as one number if all its entries are equal.

    Args:
        header: The file's header.
        key: Which value.
        default: Returned where the key is absent; None makes the key required.
        minimum: Smallest allowed value.

    Raises:
        CheckpointError: Absent, not an integer, below the minimum, or different from layer to layer.
    """
    value = _get(header, key, default)
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu" and value.size and (value == value[0]).all():
        value = int(value[0])
    if type(value) is not int or value < minimum:
        raise _wrong(header, key, value, f"an integer of at least {minimum}, the same for every layer")
    return value


def get_float(header: GGUFHeader, key: str, default: float | None = None, *, minimum: float = 0.0) -> float:
    """A finite number of the metadata, with the fewest digits that give the same fp32 (1e-05, not 9.99999975e-06).

    Args:
        header: The file's header.
        key: Which value.
        default: Returned where the key is absent; None makes the key required.
        minimum: Smallest allowed value.

    Raises:
        CheckpointError: Absent, not a number, not finite or below the minimum.
    """
    value = _get(header, key, default)
    if type(value) is not float or not math.isfinite(value) or value < minimum:
        raise _wrong(header, key, value, f"a finite number of at least {minimum}")
    with np.errstate(over="ignore"):
        shortest = float(str(np.float32(value)))
    return shortest if np.float32(shortest) == value else value


def get_bool(header: GGUFHeader, key: str, default: bool | None = None) -> bool:
    """A truth value of the metadata; raises CheckpointError as the others do."""
    value = _get(header, key, default)
    if type(value) is not bool:
        raise _wrong(header, key, value, "true or false")
    return value


def get_text(header: GGUFHeader, key: str, default: str | None = None) -> str:
    """A string of the metadata; raises CheckpointError as the others do."""
    value = _get(header, key, default)
    if type(value) is not str:
        raise _wrong(header, key, value, "a string")
    return value


def get_texts(header: GGUFHeader, key: str) -> list[str]:
    """An array of strings of the metadata, required; raises CheckpointError as the others do."""
    value = _get(header, key, None)
    if type(value) is not list:
        raise _wrong(header, key, value, "an array of strings")
    return value


def get_ints(header: GGUFHeader, key: str) -> np.ndarray:
    """An array of integers of the metadata, required; raises CheckpointError as the others do."""
    value = _get(header, key, None)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu":
        raise _wrong(header, key, value, "an array of integers")
    return value


def _get(header: GGUFHeader, key: str, default: MetadataValue | None) -> MetadataValue:
    value = header.metadata.get(key, default)
    if value is None:
        raise CheckpointError(f"{header.source}: the metadata has no {key}; the file is not a complete language model")
    return value


def _wrong(header: GGUFHeader, key: str, value: MetadataValue, allowed: str) -> CheckpointError:
    shown = short(value) if isinstance(value, str | int | float) else type(value).__name__
    return CheckpointError(f"{header.source}: {key} is {shown}; {allowed} is allowed")
