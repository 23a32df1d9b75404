"""Text from token ids as they come, never half a character."""

from collections.abc import Iterable, Sequence
from typing import Any

from seed_oss.chat.backend import Backend
from seed_oss.chat.control_tokens import SEED_CONTROL_TOKENS, ControlToken, Piece
from seed_oss.chat.decoder_stages import build_stages
from seed_oss.chat.encoding import to_lists
from seed_oss.chat.vocabulary import checked_ids

_CONTROL = {token.text: token for token in SEED_CONTROL_TOKENS}


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
        added = backend.tokenizer.get_added_tokens_decoder()
        self._control = {
            token_id: _CONTROL[token.content] for token_id, token in added.items() if token.content in _CONTROL
        }
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
        return self._put(checked_ids(to_lists(token_ids)))

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

    def put_pieces(self, token_ids: Any) -> list[Piece]:
        """Take the next ids, and tell control tokens from text that spells one.

        An added token that is one of SEED_CONTROL_TOKENS becomes a ControlToken, flagged special or not, skipped or
        not; all else is text, as from `put`. So only a control token can open or close a block of an answer: see
        `StreamParser` with text_is_plain. For decoders of the tokenizers package that wait for a token's successor,
        text between two control tokens is decoded by itself.

        Args:
            token_ids: An id, or a list, tensor or array of ids.

        Returns:
            The pieces that have become certain; neighbouring texts are one, and none is empty. A control token also
            ends a character that has not all its bytes.

        Raises:
            TokenizerError: An id is not an integer from 0 to 2**32 - 1.
        """
        pieces: list[Piece] = []
        text: list[int] = []
        for token_id in checked_ids(to_lists(token_ids)):
            control = self._control.get(token_id)
            if control is None:
                text.append(token_id)
                continue
            before = self._put(text) + self._text_before(control)
            pieces += [before, control] if before else [control]
            text = []
        rest = self._put(text)
        return [*pieces, rest] if rest else pieces

    def finish_pieces(self) -> list[Piece]:
        """Say that no ids follow `put_pieces`; see `finish`."""
        rest = self.finish()
        return [rest] if rest else []

    def copy(self) -> "Detokenizer":
        """A detokenizer in the same state that goes on by itself."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._stages = [stage.copy() for stage in self._stages]
        return other

    def _put(self, token_ids: Sequence[int]) -> str:
        tokens = map(self._tokenizer.id_to_token, token_ids)
        return self._run(token for token in tokens if token is not None and token not in self._skipped)

    def _text_before(self, control: ControlToken) -> str:
        """Take a control token; return the text that it makes certain."""
        waiting = [stage.copy() for stage in self._stages]
        decoded = self._run([control.text])
        if decoded.endswith(control.text):
            return decoded.removesuffix(control.text)
        self._stages = waiting
        return self.finish()

    def _run(self, tokens: Iterable[str]) -> str:
        pieces = list(tokens)
        for stage in self._stages:
            pieces = [text for piece in pieces for text in stage.push(piece)]
        return "".join(pieces)
