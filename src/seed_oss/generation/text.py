"""Token ids to text, a few at a time, never cutting a character in two."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

from seed_oss.chat import SeedOssTokenizer
from seed_oss.errors import InputError

_INCOMPLETE = "\ufffd"  # what decoding gives for bytes that are no character, or not yet one


class Decodes(Protocol):
    """A tokenizer, as far as streaming and stop strings need one."""

    def decode(self, token_ids: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Text of a list of ids."""
        ...


class TextDecoder(ABC):
    """Takes ids, gives text; all pieces joined are the text of all ids."""

    @abstractmethod
    def feed(self, ids: Sequence[int]) -> str:
        """Text that has become certain with these further ids."""

    @abstractmethod
    def finish(self) -> str:
        """What was held back."""


class WindowDecoder(TextDecoder):
    """For any tokenizer: decodes the newest ids together with some before them, and shows what is new.

    Args:
        tokenizer: has `decode(ids, **decode_kwargs)`.
        decode_kwargs: for `decode`.
    """

    max_window = 64

    def __init__(self, tokenizer: Decodes, decode_kwargs: dict[str, Any]) -> None:
        self._tokenizer = tokenizer
        self._decode_kwargs = decode_kwargs
        self._window: list[int] = []
        self._num_shown = 0  # characters of the window's text

    def feed(self, ids: Sequence[int]) -> str:
        """See TextDecoder.feed."""
        self._window.extend(ids)
        text = self._decode(self._window)
        return self._show(text, len(text) - _num_uncertain(text))

    def finish(self) -> str:
        """See TextDecoder.finish."""
        text = self._decode(self._window)
        piece = self._show(text, len(text))
        self._window, self._num_shown = [], 0
        return piece

    def _show(self, text: str, end: int) -> str:
        piece = text[self._num_shown : end]
        self._num_shown = max(self._num_shown, end)
        if len(self._window) > self.max_window:
            num_hidden = len(text) - self._num_shown
            self._window = self._window[-self.max_window // 2 :]
            self._num_shown = len(self._decode(self._window)) - num_hidden
        return piece

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, **self._decode_kwargs) if ids else ""


def _num_uncertain(text: str) -> int:
    """Characters at the end that further bytes may still turn into another one: a character has up to four bytes."""
    return min(len(text) - len(text.rstrip(_INCOMPLETE)), 3)


class IncrementalDecoder(TextDecoder):
    """For our own tokenizer, whose detokenizer knows what later ids can still change.

    Args:
        tokenizer: the tokenizer.
        skip_special_tokens: leave out tokens that the vocabulary flags as special.
    """

    def __init__(self, tokenizer: SeedOssTokenizer, skip_special_tokens: bool) -> None:
        self._detokenizer = tokenizer.detokenizer(skip_special_tokens=skip_special_tokens)

    def feed(self, ids: Sequence[int]) -> str:
        """See TextDecoder.feed."""
        return self._detokenizer.put(list(ids))

    def finish(self) -> str:
        """See TextDecoder.finish."""
        return self._detokenizer.finish()


def text_decoder(tokenizer: Decodes, **decode_kwargs: Any) -> TextDecoder:
    """The decoder that suits a tokenizer.

    Args:
        tokenizer: ours, or any that has `decode`.
        decode_kwargs: for `decode`. Spaces before punctuation, `clean_up_tokenization_spaces`, are left as they are
            by our own: they may be shown before it is known what follows.

    Raises:
        InputError: an object without `decode`, or an argument that `decode` does not take.
    """
    if not isinstance(tokenizer, SeedOssTokenizer):
        if not callable(getattr(tokenizer, "decode", None)):
            raise InputError(f"tokenizer is a {type(tokenizer).__name__}; it must have decode(ids) -> text")
        return WindowDecoder(tokenizer, decode_kwargs)
    unknown = decode_kwargs.keys() - {"skip_special_tokens", "clean_up_tokenization_spaces"}
    if unknown:
        raise InputError(f"decode() does not take {', '.join(sorted(unknown))}; remove these arguments")
    return IncrementalDecoder(tokenizer, bool(decode_kwargs.get("skip_special_tokens", False)))
