"""From texts to rows of token ids: the work behind a tokenizer call."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from tokenizers import Encoding

from seed_oss.chat.backend import Backend, Truncation
from seed_oss.chat.encoding import BatchEncoding
from seed_oss.chat.padding import Padding
from seed_oss.errors import InputError

MAX_WINDOW_TOKENS = 2**24  # of all pieces of a call, where they overlap by more than three quarters
_HARMLESS_OVERLAP = 4


@dataclass(frozen=True)
class Wanted:
    """Which rows a call returns beside `input_ids`."""

    attention_mask: bool = True
    token_type_ids: bool = False
    special_tokens_mask: bool = False
    offsets_mapping: bool = False
    length: bool = False
    overflowing_tokens: bool = False


@dataclass(frozen=True)
class Inputs:
    """Texts as the backend takes them.

    Args:
        items: A text, a pair of texts, a list of words or a pair of these, for each row.
        batched: Whether the caller gave a batch; otherwise there is one row, returned without the batch dimension.
        words: Whether the items are lists of words.
    """

    items: list[Any]
    batched: bool
    words: bool


def gather_inputs(text: Any, text_pair: Any = None, *, is_split_into_words: bool = False) -> Inputs:
    """Sort out what the caller gave: one text or many, with or without pairs, whole or cut into words.

    Raises:
        InputError: A text is not a string (or a list of strings with `is_split_into_words`), or the numbers of texts
            and pairs differ.
    """
    if is_split_into_words:
        batched = _is_sequence(text) and bool(text) and _is_sequence(text[0])
    else:
        batched = _is_sequence(text)
    if not batched:
        items: list[Any] = [(text, text_pair)] if text_pair else [text]
    else:
        items = list(cast("Sequence[Any]", text))
        if text_pair is not None:
            if isinstance(text_pair, str) or len(text_pair) != len(items):
                raise InputError(f"a batch of {len(items)} texts needs a list of {len(items)} pairs in text_pair")
            items = list(zip(items, text_pair, strict=True))
    for index, item in enumerate(items):
        if not _is_input(item, is_split_into_words):
            what = "a list of words or a pair of these" if is_split_into_words else "a string or a pair of strings"
            raise InputError(f"text {index} must be {what}, got {_kind(item)}")
    return Inputs(items, batched, is_split_into_words)


def encode_rows(
    backend: Backend,
    inputs: Inputs,
    *,
    wanted: Wanted,
    add_special_tokens: bool,
    padding: Padding | None,
    truncation: Truncation | None,
    split_special_tokens: bool,
    return_tensors: str | None,
) -> BatchEncoding:
    """Encode, cut, pad and pick what is wanted.

    Returns:
        `input_ids` and the wanted rows, `[batch][length]`, or `[length]` for a single text without tensors.

    Raises:
        InputError: Tensors are asked for and the rows differ in length, or the pieces of truncated texts overlap so
            much that they would take more than `MAX_WINDOW_TOKENS` tokens.
        TokenizerError: The backend cannot encode a text.
    """
    if truncation is not None:
        _check_windows(backend, inputs, truncation, add_special_tokens)
    encodings = backend.encode_batch(
        inputs.items,
        add_special_tokens=add_special_tokens,
        is_pretokenized=inputs.words,
        truncation=truncation,
        split_special_tokens=split_special_tokens,
    )
    if padding is not None:
        _pad(encodings, padding)
    sample_of = list(range(len(encodings)))
    if wanted.overflowing_tokens:
        groups = [[encoding, *encoding.overflowing] for encoding in encodings]
        sample_of = [index for index, group in enumerate(groups) for _ in group]
        encodings = [encoding for group in groups for encoding in group]
    data = _rows(encodings, wanted)
    if wanted.overflowing_tokens:
        data["overflow_to_sample_mapping"] = sample_of
    elif not inputs.batched and return_tensors is None:
        data = {name: cast("list[Any]", rows[0]) if isinstance(rows[0], list) else rows for name, rows in data.items()}
    return BatchEncoding(data, encodings, return_tensors)


def _check_windows(backend: Backend, inputs: Inputs, truncation: Truncation, add_special_tokens: bool) -> None:
    """The package makes all pieces of a text at once; where they overlap almost wholly, each copies the last."""
    added = backend.tokenizer.num_special_tokens_to_add(False) if add_special_tokens else 0
    step = truncation.max_length - added - truncation.stride
    if step < 1 or truncation.max_length <= _HARMLESS_OVERLAP * step:
        return
    num_bytes = sum(_num_bytes(item) for item in inputs.items)  # no fewer than tokens
    if num_bytes // step * truncation.max_length > MAX_WINDOW_TOKENS:
        raise InputError(
            f"texts of {num_bytes} bytes in pieces of max_length={truncation.max_length} with "
            f"stride={truncation.stride} may take more than {MAX_WINDOW_TOKENS} tokens; pass a smaller stride, "
            "or fewer texts at a time"
        )


def _num_bytes(item: Any) -> int:
    if isinstance(item, str):
        return len(item.encode("utf-8", "surrogatepass"))
    return sum(_num_bytes(part) for part in item)


def _pad(encodings: list[Encoding], padding: Padding) -> None:
    target = padding.target([len(encoding) for encoding in encodings])
    records: list[Any] = [*encodings]  # Any: the package's own types leave the argument types out
    for encoding in records:
        encoding.pad(
            target,
            direction=padding.side,
            pad_id=padding.pad_id,
            pad_type_id=padding.pad_type_id,
            pad_token=padding.pad_token,
        )


def _rows(encodings: list[Encoding], wanted: Wanted) -> dict[str, list[Any]]:
    rows: dict[str, list[Any]] = {"input_ids": [encoding.ids for encoding in encodings]}
    if wanted.token_type_ids:
        rows["token_type_ids"] = [encoding.type_ids for encoding in encodings]
    if wanted.attention_mask:
        rows["attention_mask"] = [encoding.attention_mask for encoding in encodings]
    if wanted.special_tokens_mask:
        rows["special_tokens_mask"] = [encoding.special_tokens_mask for encoding in encodings]
    if wanted.offsets_mapping:
        rows["offset_mapping"] = [encoding.offsets for encoding in encodings]
    if wanted.length:
        rows["length"] = [len(encoding) for encoding in encodings]
    return rows


def _is_input(item: Any, words: bool) -> bool:
    if _is_text(item, words):
        return True
    if not isinstance(item, list | tuple):
        return False
    pair = cast("Sequence[Any]", item)
    return len(pair) == 2 and all(_is_text(part, words) for part in pair)


def _is_text(item: Any, words: bool) -> bool:
    if not words:
        return isinstance(item, str)
    return isinstance(item, list | tuple) and all(isinstance(word, str) for word in cast("Sequence[Any]", item))


def _kind(item: Any) -> str:
    kind = type(item).__name__
    return f"a {kind} of {len(item)} items" if _is_sequence(item) else kind


def _is_sequence(value: Any) -> bool:
    return isinstance(value, list | tuple)
