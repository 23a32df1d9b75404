"""The added tokens of a tokenizer: found in text, and kept out of text."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Encoding, Tokenizer
from tokenizers.models import WordLevel

from seed_oss.chat.backend import backend_errors, twin
from seed_oss.chat.control_tokens import ControlToken, Piece
from seed_oss.errors import TokenizerError

_UNKNOWN = "\U0010fffd"  # the cutter's word for everything between added tokens; a private-use character
_MAX_CUTS = 32
_SURROGATES = dict.fromkeys(range(55296, 57344), 65533)
_Encoded = tuple[list[int], list[int]]  # ids, and the character that each starts at
_encoded_before: ContextVar[dict[tuple[int, str], _Encoded] | None] = ContextVar("_encoded_before", default=None)


@contextmanager
def each_text_once() -> Generator[None]:
    """Within it, in this thread, a text that has been encoded is not encoded again: for prompts with the same messages.

    What is kept is forgotten at its end, so that the time another prompt takes says nothing of this one.
    """
    token = _encoded_before.set({})
    try:
        yield
    finally:
        _encoded_before.reset(token)


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a prompt and how many characters of the prompt it stands for.

    Args:
        piece: Text, or a control token.
        num_chars: More than the token's own where it takes whitespace around it along.
    """

    piece: Piece
    num_chars: int


class ControlVocabulary:
    """What a tokenizer makes of text with added tokens in it, taken apart.

    Args:
        tokenizer: Its tokens must not change afterwards.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokens = tokenizer.get_added_tokens_decoder()
        ordered = [tokens[token_id] for token_id in sorted(tokens)]
        self._tokenizer = tokenizer
        self._twin = twin(tokenizer, added_tokens=False)
        self._cutter = _make_cutter(tokenizer, ordered)
        self._texts = {index: token.content for index, token in self._cutter.get_added_tokens_decoder().items()}
        unknown = self._twin.encode(_UNKNOWN, add_special_tokens=False).ids  # of unknown text, which is harmless
        self._control_ids = frozenset(tokens).difference(
            unknown, (token_id for token_id, token in tokens.items() if token.content.isspace())
        )
        markup = [token.content for token in ordered if not token.content.isalnum()]
        # Ends and starts of markers, from which strings side by side could make a whole one.
        parts = [(text[:size], text[size:]) for text in markup for size in range(1, len(text))]
        self.starts = frozenset(start for start, _ in parts if not start.isalnum())
        self.ends = frozenset(end for _, end in parts if not end.isalnum())
        self.max_part_len = max((len(text) for text in markup), default=1) - 1

    def cut(self, text: str) -> list[Segment]:
        """Cut a text at the added tokens that the tokenizer finds in it.

        Raises:
            TokenizerError: The tokenizers package cannot read the text.
        """
        if not text:
            return []
        with backend_errors("the text cannot be cut at control tokens"):
            # `encode_batch` lets other threads run meanwhile; `encode` does not
            encoding = self._cutter.encode_batch([without_surrogates(text)], add_special_tokens=False)[0]
        segments: list[Segment] = []
        place = 0
        for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            marker = self._texts.get(token_id)
            if marker is None:
                continue
            if start > place:
                segments.append(Segment(text[place:start], start - place))
            segments.append(Segment(ControlToken(marker), end - start))
            place = end
        if place < len(text):
            segments.append(Segment(text[place:], len(text) - place))
        return segments

    def encode(self, segments: Sequence[Segment]) -> tuple[list[int], list[int]]:
        """Token ids of a prompt, and the character that each token starts at.

        Each text is encoded once, by a tokenizer that knows no added tokens.

        Raises:
            TokenizerError: A control token is not in the vocabulary, or a text cannot be encoded.
        """
        runs = [segment.piece for segment in segments if isinstance(segment.piece, str)]
        encoded = iter(self._encode_texts(runs))
        ids: list[int] = []
        starts: list[int] = []
        place = 0
        for segment in segments:
            if isinstance(segment.piece, str):
                run_ids, run_starts = next(encoded)
                ids.extend(run_ids)
                starts.extend([place + start for start in run_starts] if place else run_starts)
            else:
                ids.append(self._id_of(segment.piece))
                starts.append(place)
            place += segment.num_chars
        return ids, starts

    def _id_of(self, token: ControlToken) -> int:
        token_id = self._tokenizer.token_to_id(token.text)
        if token_id is None:
            raise TokenizerError(
                f"the chat template writes {token.text!r}, which is not in the tokenizer's vocabulary; use the "
                "tokenizer of the template's own checkpoint, or pass another template as chat_template="
            )
        return token_id

    def _encode_texts(self, texts: list[str]) -> list[_Encoded]:
        before = _encoded_before.get()
        if before is None:
            return self._encode_all(texts)
        new = list({text: None for text in texts if (id(self), text) not in before})
        before.update(zip([(id(self), text) for text in new], self._encode_all(new), strict=True))
        return [before[id(self), text] for text in texts]

    def _encode_all(self, texts: list[str]) -> list[_Encoded]:
        with backend_errors("the text cannot be encoded"):
            encodings = self._twin.encode_batch([without_surrogates(text) for text in texts], add_special_tokens=False)
        return [
            (encoding.ids, [start for start, _ in encoding.offsets])
            if self._control_ids.isdisjoint(encoding.ids)
            else self._encode_apart(text, encoding)
            for text, encoding in zip(texts, encodings, strict=True)
        ]

    def _encode_apart(self, text: str, encoding: Encoding) -> _Encoded:
        """Encode a text whose words include a control token's: some vocabularies list these among ordinary tokens.

        The text is cut inside each such word, and what is left is encoded by itself.
        """
        cuts: set[int] = set()
        words = [(token_id, *span) for token_id, span in zip(encoding.ids, encoding.offsets, strict=True)]
        for _ in range(_MAX_CUTS):
            found = {start + 1 for token_id, start, end in words if token_id in self._control_ids and end - start > 1}
            if not found - cuts:
                return [token_id for token_id, _, _ in words], [start for _, start, _ in words]
            cuts |= found
            words = self._encode_between(text, sorted(cuts))
        raise TokenizerError("a text spells a control token in more ways than can be told apart; leave its markers out")

    def _encode_between(self, text: str, cuts: list[int]) -> list[tuple[int, int, int]]:
        """Ids with the characters `[start, end)` that they stand for, of a text cut at some places."""
        bounds = list(zip([0, *cuts], [*cuts, len(text)], strict=True))
        with backend_errors("the text cannot be encoded"):
            encodings = self._twin.encode_batch(
                [without_surrogates(text[start:end]) for start, end in bounds], add_special_tokens=False
            )
        return [
            (token_id, base + start, base + end)
            for (base, _), encoding in zip(bounds, encodings, strict=True)
            for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
        ]


def without_surrogates(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.translate(_SURROGATES)
    return text


def _make_cutter(tokenizer: Tokenizer, tokens: list[AddedToken]) -> Tokenizer:
    """A tokenizer that knows the added tokens and takes all text between two of them for one word."""
    cutter: Any = Tokenizer(WordLevel({_UNKNOWN: 0}, unk_token=_UNKNOWN))
    if tokenizer.normalizer is not None:
        cutter.normalizer = tokenizer.normalizer
    cutter.add_tokens(tokens)
    return cutter
