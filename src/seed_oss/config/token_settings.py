"""Checks on settings that name tokens: biases, words, sequence breakers. See `fields.py` for what a check is."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from seed_oss.config.fields import as_float, integer, list_of, refuse, shown, text

MAX_LOGIT_BIASES = 300
MAX_LOGIT_BIAS = 100.0
MAX_BREAKERS = 64
MAX_BREAKER_CHARS = 40

token_id = integer(0)
token_ids = list_of(token_id)


def read_logit_bias(field: str, value: Any) -> dict[int, float]:
    """A mapping of token ids (ints, or their decimal strings as JSON writes them) to biases from -100 to 100."""
    items = _as_mapping(value)
    if items is None or len(items) > MAX_LOGIT_BIASES:
        refuse(field, value, f"a mapping of at most {MAX_LOGIT_BIASES} token ids to biases")
    result = {_id_of_key(f"{field} key", key): _bias(f"{field}[{shown(key)}]", bias) for key, bias in items.items()}
    if len(result) < len(items):
        refuse(field, value, "a mapping that names each token once")
    return result


def _as_mapping(value: object) -> Mapping[Any, Any] | None:
    return cast("Mapping[Any, Any]", value) if isinstance(value, Mapping) else None


def _as_sequence(value: object) -> Sequence[Any] | None:
    return cast("Sequence[Any]", value) if isinstance(value, list | tuple) else None


def _id_of_key(field: str, key: Any) -> int:
    is_digits = isinstance(key, str) and key.isascii() and key.isdecimal() and len(key) < 12
    return token_id(field, int(key) if is_digits else key)


def _bias(field: str, value: Any) -> float:
    bias = as_float(value)
    if bias is None or abs(bias) > MAX_LOGIT_BIAS:
        refuse(field, value, f"a number from {-MAX_LOGIT_BIAS:g} to {MAX_LOGIT_BIAS:g}")
    return bias


def read_sequence_bias(field: str, value: Any) -> list[list[Any]]:
    """A non-empty list of [token ids, bias]; a mapping from tuples of ids is accepted, too."""
    mapping = _as_mapping(value)
    pairs = _as_sequence(value) if mapping is None else list(mapping.items())
    if not pairs:
        refuse(field, value, "a non-empty list of [list of token ids, number]")
    return [_biased(f"{field}[{index}]", pair) for index, pair in enumerate(pairs)]


def _biased(field: str, value: Any) -> list[Any]:
    pair = _as_sequence(value)
    if pair is None or len(pair) != 2:
        refuse(field, value, "[list of token ids, number]")
    bias = as_float(pair[1])
    if bias is None:
        refuse(f"{field}[1]", pair[1], "a finite number (bad_words_ids forbids a sequence)")
    return [_some_ids(f"{field}[0]", pair[0]), bias]


def _some_ids(field: str, value: Any) -> list[int]:
    ids = token_ids(field, value)
    if not ids:
        refuse(field, value, "a list of at least one token id")
    return ids


def read_words(field: str, value: Any) -> list[list[int]]:
    """A non-empty list of non-empty lists of token ids."""
    words = list_of(_some_ids)(field, value)
    if not words:
        refuse(field, value, "a list of at least one list of token ids")
    return words


def read_breakers(field: str, value: Any) -> list[str | int]:
    """A list of short texts and token ids."""
    breakers = list_of(_breaker)(field, value)
    if len(breakers) > MAX_BREAKERS:
        refuse(field, breakers, f"a list of at most {MAX_BREAKERS} texts and token ids")
    return breakers


def _breaker(field: str, value: Any) -> str | int:
    if not isinstance(value, str):
        return token_id(field, value)
    if len(value) > MAX_BREAKER_CHARS:
        refuse(field, value, f"a text of at most {MAX_BREAKER_CHARS} characters, or a token id")
    return text(field, value)
