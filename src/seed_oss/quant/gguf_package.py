"""The one gate to the optional `gguf` package: its block sizes and its dequantization."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seed_oss.errors import MissingExtraError

if TYPE_CHECKING:
    from types import ModuleType


def require_gguf() -> ModuleType:
    """Import the `gguf` package.

    Returns:
        The module.

    Raises:
        MissingExtraError: The package is not installed; the message names the extra that brings it.
    """
    try:
        import gguf
    except ImportError as error:
        raise MissingExtraError(
            f"Reading a GGUF file needs the package gguf ({error}). Install it: pip install 'seed-oss[gguf]'"
        ) from error
    return gguf
