"""The result of a tokenizer call: a mapping of names to rows of integers, arrays or tensors."""

import sys
from collections import UserDict
from collections.abc import Mapping, Sequence
from typing import Any, cast

from tokenizers import Encoding

from seed_oss.errors import InputError, TokenizerError


class BatchEncoding(UserDict[str, Any]):
    """What a tokenizer call returns.

    Values are reached by key (`enc["input_ids"]`), by attribute (`enc.input_ids`) or with `**enc`; an integer index
    gives the backend's own record of that row (`enc[0].tokens`).

    Args:
        data: Rows by name: `input_ids`, `attention_mask`, ... each `[batch][length]` or `[length]`.
        encodings: The backend's record of each row, if there is one.
        return_tensors: "pt" for torch tensors (int64), "np" for numpy arrays (int64), None for lists.

    Raises:
        InputError: The rows have different lengths and tensors are asked for, or the kind is not known.
    """

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        encodings: Sequence[Encoding] | None = None,
        return_tensors: str | None = None,
    ) -> None:
        super().__init__(dict(data or {}))
        self._encodings = None if encodings is None else list(encodings)
        if return_tensors is not None:
            self.convert_to_tensors(return_tensors)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.data[key]
        if isinstance(key, int):
            return self._records()[key]
        if isinstance(key, slice):
            return {name: value[key] for name, value in self.data.items()}
        raise KeyError(f"a name, a row number or a slice is needed, got {type(key).__name__}")

    def __getattr__(self, name: str) -> Any:
        data: dict[str, Any] = self.__dict__.get("data", {})
        if name in data:
            return data[name]
        raise AttributeError(f"BatchEncoding has no {name!r}; it holds {', '.join(data) or 'nothing'}")

    @property
    def encodings(self) -> list[Encoding] | None:
        """The backend's record of each row, or None where the rows did not come from text."""
        return self._encodings

    def convert_to_tensors(self, return_tensors: str) -> "BatchEncoding":
        """Turn the rows into tensors, in place.

        Args:
            return_tensors: "pt" or "np".

        Returns:
            This object.

        Raises:
            InputError: The rows have different lengths, or the kind is not known.
        """
        for name, rows in self.data.items():
            self.data[name] = rows_to_tensor(rows, return_tensors, name)
        return self

    def to(self, device: Any, *, non_blocking: bool = False) -> "BatchEncoding":
        """Move every torch tensor to a device, in place.

        Args:
            device: A torch device, its name, or an index.
            non_blocking: Passed on to torch.

        Returns:
            This object.
        """
        from seed_oss.chat import tensors

        for name, value in self.data.items():
            if tensors.is_tensor(value):
                self.data[name] = tensors.move(value, device, non_blocking=non_blocking)
        return self

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The tokens of a row as text."""
        return self._records()[batch_index].tokens

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of a row, the index of the word it comes from; None for added special tokens and padding."""
        return list(self._records()[batch_index].word_ids)

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of a row, 0 for the text, 1 for the pair, None for added special tokens and padding."""
        return list(self._records()[batch_index].sequence_ids)

    def token_to_chars(self, batch_index: int, token_index: int) -> tuple[int, int] | None:
        """The characters `[start, end)` of the text that a token covers; None for added special tokens."""
        return self._records()[batch_index].token_to_chars(token_index)

    def char_to_token(self, batch_index: int, char_index: int, sequence_index: int = 0) -> int | None:
        """The token that covers a character of the text; None where no token does."""
        return self._records()[batch_index].char_to_token(char_index, sequence_index)

    def _records(self) -> list[Encoding]:
        if self._encodings is None:
            raise TokenizerError("only rows that come straight from tokenizing text know their tokens and words")
        return self._encodings


def rows_to_tensor(rows: Any, kind: str, name: str) -> Any:
    """Turn rows of integers into an int64 tensor ("pt") or array ("np").

    Raises:
        InputError: The rows have different lengths, or the kind is not known.
    """
    if kind not in ("pt", "np"):
        raise InputError(f'return_tensors must be "pt", "np" or None, got {kind!r}')
    if not isinstance(rows, list):
        return rows
    nested = [cast("Sequence[Any]", row) for row in cast("list[Any]", rows) if isinstance(row, list | tuple)]
    lengths = {len(row) for row in nested}
    if len(lengths) > 1:
        raise InputError(
            f"the rows of {name} have lengths from {min(lengths)} to {max(lengths)}, a tensor needs one; "
            "pass padding=True, and truncation=True to limit the length"
        )
    if kind == "np":
        import numpy

        return numpy.array(rows, dtype=numpy.int64)
    from seed_oss.chat.tensors import as_tensor

    return as_tensor(rows)


def to_lists(value: Any) -> Any:
    """Turn a torch tensor, a numpy array or number, or nested sequences of these into integers in plain lists."""
    if isinstance(value, list | tuple):
        items = cast("Sequence[Any]", value)
        if all(type(item) is int for item in items):
            return list(items)
        return [to_lists(item) for item in items]
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return value.tolist()
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic):
        return value.tolist()
    return value
