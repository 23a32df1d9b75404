"""How long rows become: the meaning of `padding`, `truncation` and `max_length`, and padding of rows already there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from seed_oss.chat.backend import Truncation
from seed_oss.chat.encoding import BatchEncoding, to_lists
from seed_oss.errors import InputError, TokenizerError

NO_LIMIT = int(1e30)  # what the reference stores for "no longest length"
_LARGE = 10**20
MAX_PADDED_TOKENS = 2**28
SIDES = ("right", "left")
_TRUNCATIONS = ("longest_first", "only_first", "only_second")


@dataclass(frozen=True)
class Padding:
    """How rows are padded.

    Args:
        length: Length of every row; None for the longest row's.
        side: "right" or "left".
        pad_id: Token id to pad with.
        pad_token: Its text.
        pad_type_id: Token type id to pad with.
        multiple_of: Lengths are rounded up to a multiple of this; None for 1.
    """

    length: int | None
    side: str
    pad_id: int
    pad_token: str
    pad_type_id: int = 0
    multiple_of: int | None = None

    def target(self, lengths: Sequence[int]) -> int:
        """The length that rows of these lengths are padded to; longer rows are left alone.

        Raises:
            InputError: The padded rows would have more tokens than `MAX_PADDED_TOKENS`.
        """
        target = max(lengths, default=0) if self.length is None else self.length
        if self.multiple_of and target % self.multiple_of:
            target += self.multiple_of - target % self.multiple_of
        if target * max(len(lengths), 1) > MAX_PADDED_TOKENS:
            raise InputError(
                f"padding {len(lengths)} rows to {target} tokens each exceeds {MAX_PADDED_TOKENS} tokens; "
                "pass a smaller max_length"
            )
        return target


def padding_kind(padding: bool | str) -> str | None:
    """ "longest", "max_length", or None for no padding.

    Raises:
        InputError: It is none of the allowed values.
    """
    if padding is True or padding == "longest":
        return "longest"
    if padding is False or padding == "do_not_pad":
        return None
    if padding == "max_length":
        return "max_length"
    raise InputError(f'padding must be True, False, "longest", "max_length" or "do_not_pad", got {padding!r}')


def truncation_kind(truncation: bool | str | None) -> str | None:
    """The strategy to cut with, or None for no cut.

    Raises:
        InputError: It is none of the allowed values.
    """
    if truncation is True:
        return "longest_first"
    if truncation is None or truncation is False or truncation == "do_not_truncate":
        return None
    if truncation in _TRUNCATIONS:
        return truncation
    raise InputError(f"truncation must be True, False or one of {', '.join(_TRUNCATIONS)}, got {truncation!r}")


def check_side(side: Any, name: str) -> str:
    """Check a padding or truncation side.

    Raises:
        InputError: It is neither "right" nor "left".
    """
    if side not in SIDES:
        raise InputError(f'{name} must be "right" or "left", got {side!r}')
    return side


def check_length(value: Any, name: str, minimum: int) -> None:
    """Check a number of tokens.

    Raises:
        InputError: It is not an integer of at least `minimum`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise InputError(f"{name} must be an integer of at least {minimum}, got {value!r}")


def resolve_lengths(
    *,
    padding: bool | str,
    truncation: bool | str | None,
    max_length: int | None,
    model_max_length: int,
    stride: int = 0,
    direction: str = "right",
) -> tuple[str | None, int | None, Truncation | None]:
    """What a call's arguments mean together, as in the reference.

    `max_length` alone switches truncation on; without it the model's longest length is used, and where that is not
    known either, neither padding to it nor truncation happens.

    Returns:
        Kind of padding ("longest", "max_length" or None), the length to pad to for "max_length", and the truncation.

    Raises:
        InputError: A value is not allowed.
    """
    if max_length is not None:
        check_length(max_length, "max_length", 0)
        if truncation is None and padding is False:
            truncation = True
    check_length(stride, "stride", 0)
    kind, strategy = padding_kind(padding), truncation_kind(truncation)
    length = max_length
    if length is None and model_max_length <= _LARGE:
        length = model_max_length
    if length is None:
        return (None if kind == "max_length" else kind), None, None
    cut = None if strategy is None else Truncation(length, stride, strategy, direction)
    return kind, length if kind == "max_length" else None, cut


def pad_features(
    features: Any, padding: Padding | None, *, main_input: str, with_mask: bool, return_tensors: str | None
) -> BatchEncoding:
    """Pad rows that were tokenized before.

    Args:
        features: A mapping of names to rows, or a list of mappings of names to one row each (what a data set gives).
        padding: How; None leaves the lengths alone.
        main_input: The name that must be there and that decides the lengths.
        with_mask: Whether an attention mask is made where there is none.
        return_tensors: "pt", "np" or None for lists; where the rows are tensors or arrays, the same kind is returned.

    Raises:
        TokenizerError: The main input is missing, or the names have different numbers of rows.
    """
    columns = _columns(features)
    if main_input not in columns:
        raise TokenizerError(f"{main_input} is needed to pad, got {', '.join(map(str, columns)) or 'nothing'}")
    kind = return_tensors or _kind_of(columns[main_input])
    columns = {name: to_lists(value) for name, value in columns.items()}
    rows = columns[main_input]
    if not rows:
        return BatchEncoding({**columns, "attention_mask": []} if with_mask else columns)
    single = not isinstance(rows[0], list)
    if single:
        columns = {name: [value] for name, value in columns.items()}
    padded = _pad_columns(columns, padding, main_input, with_mask)
    if single:
        padded = {name: value[0] for name, value in padded.items()}
    return BatchEncoding(padded, return_tensors=kind)


def _columns(features: Any) -> dict[str, Any]:
    if isinstance(features, Mapping):
        return dict(cast("Mapping[str, Any]", features))
    items = list(cast("Sequence[Any]", features)) if isinstance(features, list | tuple) else []
    rows = [cast("Mapping[str, Any]", item) for item in items if isinstance(item, Mapping)]
    if not rows or len(rows) != len(items):
        kind = type(cast("object", features)).__name__
        raise TokenizerError(f"a mapping, or a list of mappings, of names to rows is needed, got {kind}")
    missing = [name for name in rows[0] if any(name not in row for row in rows)]
    if missing:
        raise TokenizerError(f"{', '.join(missing)} is missing in some of the {len(rows)} rows")
    return {name: [row[name] for row in rows] for name in rows[0]}


def _kind_of(rows: Any) -> str | None:
    first = cast("Sequence[Any]", rows)[0] if isinstance(rows, list | tuple) and rows else cast("Any", rows)
    module = type(first).__module__.partition(".")[0]
    return {"torch": "pt", "numpy": "np"}.get(module)


def _pad_columns(
    columns: dict[str, list[Any]], padding: Padding | None, main_input: str, with_mask: bool
) -> dict[str, list[Any]]:
    lengths = [len(row) for row in columns[main_input]]
    for name, rows in columns.items():
        if len(rows) != len(lengths):
            raise TokenizerError(f"{name} has {len(rows)} rows, {main_input} has {len(lengths)}")
    if with_mask and "attention_mask" not in columns:
        columns = {**columns, "attention_mask": [[1] * length for length in lengths]}
    if padding is None:
        return columns
    fills = {
        main_input: padding.pad_id,
        "attention_mask": 0,
        "token_type_ids": padding.pad_type_id,
        "special_tokens_mask": 1,
        "assistant_masks": 0,
    }
    target = padding.target(lengths)
    missing = [max(0, target - length) for length in lengths]
    return {
        name: [_extend(row, fills[name], count, padding.side) for row, count in zip(rows, missing, strict=True)]
        if name in fills
        else rows
        for name, rows in columns.items()
    }


def _extend(row: list[int], fill: int, count: int, side: str) -> list[int]:
    return row + [fill] * count if side == "right" else [fill] * count + row
