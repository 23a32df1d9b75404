"""What the endpoints ask of a tokenizer again and again."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, cast

from tokenizers import Encoding, Tokenizer

from seed_oss.chat.backend import backend_errors, twin
from seed_oss.chat.control_tokens import END_REFLECT, END_THINK, REFLECT, THINK, Piece, join
from seed_oss.chat.control_vocabulary import without_surrogates
from seed_oss.chat.decoder_stages import token_bytes
from seed_oss.chat.detokenizer import Detokenizer
from seed_oss.chat.tokenizer import SeedOssTokenizer
from seed_oss.engine.conversation_memory import open_turn

_NUM_CACHED = 8192
_MAX_NAME = 64
_PARTS_PER_CHAR = 4  # bytes of a character; a token has at least one


def num_chars(value: Any) -> int:
    """Characters of all texts in some JSON; of names only of those that are no field's, but as long as a text."""
    total, rest = 0, [value]
    while rest:
        one = rest.pop()
        if isinstance(one, str):
            total += len(one)
        elif isinstance(one, Mapping):
            named = cast("Mapping[str, Any]", one)
            total += sum(len(name) for name in named if len(name) > _MAX_NAME)
            rest.extend(named.values())
        elif isinstance(one, list | tuple):
            rest.extend(cast("Sequence[Any]", one))
    return total


def texts_in(value: Any) -> Iterator[str]:
    """The texts in some JSON, names left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        given = cast("Mapping[str, Any] | Sequence[Any]", value)
        for one in given.values() if isinstance(given, Mapping) else given:
            yield from texts_in(one)


def pieces_of(text: str, size: int) -> Iterator[str]:
    """A text in pieces of about so many characters, cut in front of blanks, where tokens begin, if there are any."""
    start = 0
    while len(text) - start > size:
        cut = text.rfind(" ", start + 1, start + size)
        end = cut if cut > start else start + size
        yield text[start:end]
        start = end
    yield text[start:]


class Texts:
    """Ids to texts, in the forms that answers show.

    Args:
        tokenizer: of the model.
    """

    def __init__(self, tokenizer: SeedOssTokenizer) -> None:
        self.tokenizer = tokenizer
        self._fresh = tokenizer.detokenizer(skip_special_tokens=True)
        self.bytes = lru_cache(_NUM_CACHED)(self._bytes)
        self._special = frozenset(
            token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special
        )
        self._added = {token_id: token.content for token_id, token in tokenizer.added_tokens_decoder.items()}

    @property
    def vocab_size(self) -> int:
        """Tokens, added ones included."""
        return len(self.tokenizer)

    @cached_property
    def longest_token(self) -> int:
        """Most characters of a token; parts of a character count as one each."""
        return max(map(len, self.tokenizer.get_vocab()), default=1)

    @cached_property
    def thinks(self) -> bool:
        """Whether the vocabulary has the markers of thinking."""
        return {one.text for one in (THINK, END_THINK, REFLECT, END_REFLECT)} <= self.tokenizer.get_added_vocab().keys()

    def detokenizer(self) -> Detokenizer:
        """Start turning an answer's ids into pieces."""
        return self._fresh.copy()

    def is_special(self, token_id: int) -> bool:
        """Whether answers leave a token out."""
        return token_id in self._special

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of a text as a prompt: markers in it count, as in a call of the tokenizer."""
        return tuple(cast("list[int]", self.tokenizer(text, verbose=False)["input_ids"]))

    def encode_plain(self, text: str) -> tuple[int, ...]:
        """Ids of a text that somebody else may have written: markers in it are text."""
        before, after = self._around
        return (*before, *self._encoding(text).ids, *after)

    def encode_with_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The same, nothing put around it; and the characters that each token is."""
        encoded = self._encoding(text)
        return encoded.ids, encoded.offsets

    def _encoding(self, text: str) -> Encoding:
        """Through `encode_batch`, which lets other threads run meanwhile; `encode` does not."""
        with backend_errors("the text cannot be encoded"):
            return self._plain.encode_batch([without_surrogates(text)], add_special_tokens=False)[0]

    @cached_property
    def _plain(self) -> Tokenizer:
        return twin(self.tokenizer.backend_tokenizer, added_tokens=False)

    @cached_property
    def _around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What the checkpoint puts around a text."""
        bare, whole = self._plain.encode("a", add_special_tokens=False).ids, list(self.encode("a"))
        start = next((at for at in range(len(whole)) if whole[at : at + len(bare)] == bare), 0)
        return tuple(whole[:start]), tuple(whole[start + len(bare) :])

    def pieces(self, ids: Sequence[int]) -> list[Piece]:
        """The pieces of some ids."""
        detokenizer = self.tokenizer.detokenizer()
        return [*detokenizer.put_pieces(list(ids)), *detokenizer.finish_pieces()]

    def open_turn(self, prompt_ids: Sequence[int]) -> list[Piece]:
        """The pieces of a prompt's last turn, which say where the answer starts."""
        return open_turn(self.tokenizer, prompt_ids)

    def tail(self, prompt_ids: Sequence[int], num_chars: int) -> str:
        """The end of a prompt's text."""
        num_tokens = _PARTS_PER_CHAR * (num_chars + 1) if num_chars > 0 else 0
        return join(self.pieces(prompt_ids[-num_tokens:]))[-num_chars:] if num_tokens else ""

    def text(self, token_id: int) -> str:
        """The text of one token, markers spelled out; U+FFFD stands for parts of characters."""
        return self.bytes(token_id).decode("utf-8", errors="replace")

    def _bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes of one token."""
        added = self._added.get(token_id)
        if added is not None:
            return added.encode()
        token = self.tokenizer.convert_ids_to_tokens(token_id)
        if token is None:
            return b""
        decoded: str = self.tokenizer.decode([token_id])
        return token_bytes(token) if self._is_byte_level else decoded.encode()

    @cached_property
    def _is_byte_level(self) -> bool:
        decoder: Any = self.tokenizer.backend_tokenizer.decoder
        return decoder is not None and "ByteLevel" in repr(decoder)
