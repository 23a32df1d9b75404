"""Text from token ids as they come, never half a character."""

from collections.abc import Iterable
from typing import Any

from seed_oss.chat.backend import Backend
from seed_oss.chat.decoder_stages import build_stages
from seed_oss.chat.encoding import to_lists
from seed_oss.chat.vocabulary import checked_ids


class Detokenizer:
    """Turns ids into text piece by piece; the pieces joined are what decoding all ids at once gives.

    The time for all pieces is linear in the number of ids. `copy()` gives a second one that goes on from here by
    itself, as beams and speculation need it.

    Args:
        backend: The tokenizer's backend; `tokenizer.detokenizer()` passes its own.
        skip_special_tokens: Leave out tokens that the vocabulary flags as special.
    """

    def __init__(self, backend: Backend, *, skip_special_tokens: bool = False) -> None:
        self._tokenizer = backend.tokenizer
        self._skipped = frozenset(backend.special_tokens) if skip_special_tokens else frozenset[str]()
        self._fresh = build_stages(backend.tokenizer)
        self._stages = [stage.copy() for stage in self._fresh]

    def put(self, token_ids: Any) -> str:
        """Take the next ids.

        Args:
            token_ids: An id, or a list, tensor or array of ids. Ids outside the vocabulary give no text.

        Returns:
            The text that has become certain; it may be empty.

        Raises:
            TokenizerError: An id is not an integer from 0 to 2**32 - 1.
        """
        tokens = [self._tokenizer.id_to_token(token_id) for token_id in checked_ids(to_lists(token_ids))]
        return self._run(token for token in tokens if token is not None and token not in self._skipped)

    def finish(self) -> str:
        """Say that no ids follow; what is put afterwards starts a new text.

        Returns:
            The remaining text. An unfinished character becomes U+FFFD, as in decoding at once.
        """
        pieces: list[str] = []
        for stage in self._stages:
            pieces = [text for piece in pieces for text in stage.push(piece)]
            pieces += stage.finish()
        self._stages = [stage.copy() for stage in self._fresh]
        return "".join(pieces)

    def copy(self) -> "Detokenizer":
        """A detokenizer in the same state that goes on by itself."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._stages = [stage.copy() for stage in self._stages]
        return other

    def _run(self, tokens: Iterable[str]) -> str:
        pieces = list(tokens)
        for stage in self._stages:
            pieces = [text for piece in pieces for text in stage.push(piece)]
        return "".join(pieces)
