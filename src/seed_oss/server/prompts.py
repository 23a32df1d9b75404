"""Prompts and inputs that are no conversation: a text, a list of texts, token ids, or a list of lists of ids."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from seed_oss.server.errors import ApiError, refusing
from seed_oss.server.texts import Texts

_ALLOWED = "a text, a list of texts, a list of token ids, or a list of such lists"
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}}
SCHEMA: dict[str, Any] = {
    "oneOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        {**_IDS, "minItems": 1},
        {"type": "array", "items": {**_IDS, "minItems": 1}, "minItems": 1},
    ]
}


@dataclass(frozen=True, slots=True)
class GivenText:
    """One prompt: its text where that was given, else its ids."""

    text: str | None = None
    ids: tuple[int, ...] = ()

    def encoded(self, texts: Texts, *, markers_count: bool) -> tuple[int, ...]:
        """Its ids."""
        if self.text is None:
            return self.ids
        return texts.encode(self.text) if markers_count else texts.encode_plain(self.text)


def read_prompts(value: Any, param: str, *, max_prompts: int, vocab_size: int) -> list[GivenText]:
    """What a field holds, as a list.

    Args:
        value: of the field.
        param: its name.
        max_prompts: how many are allowed.
        vocab_size: ids must be below.

    Raises:
        ApiError: it is none of these, or has too many.
    """
    if isinstance(value, str):
        return [GivenText(value)]
    if not isinstance(value, list) or not value:
        raise ApiError("invalid", f"{param} must be {_ALLOWED}, and not empty", param=param)
    items = cast("list[Any]", value)
    if isinstance(items[0], int):
        return [GivenText(ids=_ids(items, param, vocab_size))]
    if len(items) > max_prompts:
        raise ApiError("invalid", f"{param} has {len(items)} items; at most {max_prompts} are allowed", param=param)
    read = _text if isinstance(items[0], str) else _some_ids(vocab_size)
    return [read(item, f"{param}[{index}]") for index, item in enumerate(items)]


def encode_all(
    texts: Texts, prompts: Sequence[GivenText], param: str, *, markers_count: bool = False
) -> list[tuple[int, ...]]:
    """The ids of prompts. It may take long: not for the event loop.

    Args:
        texts: of the model.
        prompts: what was given.
        param: the field that it came from.
        markers_count: control tokens that a text spells are control tokens.

    Raises:
        ApiError: a text cannot be encoded.
    """
    with refusing(param):
        return [prompt.encoded(texts, markers_count=markers_count) for prompt in prompts]


def _text(value: Any, place: str) -> GivenText:
    if not isinstance(value, str):
        raise ApiError("invalid", f"{place} must be a text, as the items before it", param=place)
    return GivenText(value)


def _some_ids(vocab_size: int) -> Callable[[Any, str], GivenText]:
    def read(value: Any, place: str) -> GivenText:
        if not isinstance(value, list) or not value:
            raise ApiError("invalid", f"{place} must be a list of token ids, and not empty", param=place)
        return GivenText(ids=_ids(cast("list[Any]", value), place, vocab_size))

    return read


def _ids(values: list[Any], place: str, vocab_size: int) -> tuple[int, ...]:
    for index, value in enumerate(values):
        if type(value) is not int or not 0 <= value < vocab_size:
            raise ApiError(
                "invalid",
                f"{place}[{index}] must be a token id from 0 to {vocab_size - 1}",
                param=place,
            )
    return tuple(values)
