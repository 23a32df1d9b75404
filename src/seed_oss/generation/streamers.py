"""Receivers of tokens while they are generated, under the reference's names."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from queue import Queue
from typing import Any

from torch import Tensor

from seed_oss.errors import InputError
from seed_oss.generation.text import Decodes, TextDecoder, text_decoder


class BaseStreamer(ABC):
    """What `generate` calls: `put` with the prompt `[batch, length]`, then each step's `[batch]` ids, then `end`."""

    @abstractmethod
    def put(self, value: Tensor) -> None:
        """Take int64 ids, on the CPU."""

    @abstractmethod
    def end(self) -> None:
        """Nothing more will come."""

    def fail(self, error: BaseException) -> None:
        """Generation ended with an error, which `generate` raises in its own thread."""
        self.end()


class TextStreamer(BaseStreamer):
    """Prints text as soon as its characters are complete.

    Args:
        tokenizer: has `decode`.
        skip_prompt: leave out the prompt.
        decode_kwargs: for `decode`, such as `skip_special_tokens=True`.
    """

    def __init__(self, tokenizer: Decodes, skip_prompt: bool = False, **decode_kwargs: Any) -> None:
        self.tokenizer = tokenizer
        self.skip_prompt = skip_prompt
        self.decode_kwargs = decode_kwargs
        self._restart()

    def put(self, value: Tensor) -> None:
        """Take the ids of one row.

        Raises:
            InputError: more than one row.
        """
        if value.dim() > 1 and value.shape[0] > 1:
            raise InputError(f"a TextStreamer shows one sequence, got {value.shape[0]}; generate them one by one")
        is_prompt, self.next_tokens_are_prompt = self.next_tokens_are_prompt, False
        if is_prompt and self.skip_prompt:
            return
        self.on_finalized_text(self._decoder.feed(value.reshape(-1).tolist()))

    def end(self) -> None:
        """Show what was held back, and be ready for another `generate`."""
        rest = self._decoder.finish()
        self._restart()
        self.on_finalized_text(rest, stream_end=True)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Print new text; override it to do something else with it.

        Args:
            text: whole characters, possibly none.
            stream_end: this is the last call of this stream.
        """
        sys.stdout.write(text + "\n" if stream_end else text)
        sys.stdout.flush()

    def _restart(self) -> None:
        self.next_tokens_are_prompt = True
        self._decoder: TextDecoder = text_decoder(self.tokenizer, **self.decode_kwargs)


class TextIteratorStreamer(TextStreamer):
    """Hands text to another thread, which iterates over this object while `generate` runs in its own.

    Args:
        tokenizer: has `decode`.
        skip_prompt: leave out the prompt.
        timeout: seconds to wait for the next piece before `queue.Empty` is raised; None waits for ever.
        decode_kwargs: for `decode`, such as `skip_special_tokens=True`.
    """

    def __init__(
        self, tokenizer: Decodes, skip_prompt: bool = False, timeout: float | None = None, **decode_kwargs: Any
    ) -> None:
        super().__init__(tokenizer, skip_prompt, **decode_kwargs)
        self.text_queue: Queue[str | BaseException | None] = Queue()
        self.stop_signal = None
        self.timeout = timeout

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Queue new text, and the stop signal after the last one."""
        self.text_queue.put(text)
        if stream_end:
            self.text_queue.put(self.stop_signal)

    def fail(self, error: BaseException) -> None:
        """Let the iteration raise `error` after the text that came before it."""
        self._restart()
        self.text_queue.put(error)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        value = self.text_queue.get(timeout=self.timeout)
        if value is None:
            raise StopIteration
        if isinstance(value, BaseException):
            raise value
        return value


def check_streamer(streamer: object) -> None:
    """Refuse what cannot take tokens, before there are any.

    Raises:
        InputError: it has no `put` or no `end`.
    """
    missing = [name for name in ("put", "end") if not callable(getattr(streamer, name, None))]
    if streamer is not None and missing:
        raise InputError(
            f"streamer is a {type(streamer).__name__} without {' and '.join(missing)}; give a TextStreamer, or an "
            "object with put(ids) and end()"
        )


def end_with_error(streamer: Any, error: BaseException) -> None:
    """Tell a streamer, ours or one that only has `put` and `end`, that no more will come because of `error`."""
    if isinstance(streamer, BaseStreamer):
        streamer.fail(error)
    elif streamer is not None:
        streamer.end()
