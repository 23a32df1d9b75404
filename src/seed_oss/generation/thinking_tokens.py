"""What a thinking budget needs to know of a vocabulary."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from seed_oss.chat.backend import twin
from seed_oss.chat.control_tokens import (
    END_REFLECT,
    END_THINK,
    EOS,
    REFLECT,
    SEED_CONTROL_TOKENS,
    THINK,
    TOOL_CALL,
    ControlToken,
)
from seed_oss.errors import TokenizerError

_CONTROL = frozenset(token.text for token in SEED_CONTROL_TOKENS)
_HALF = "\ufffd"  # what a part of a character is decoded to
_MAX_PARTS = 4  # bytes of a character


@dataclass(frozen=True)
class ThinkingTokens:
    """What a budget needs of a vocabulary.

    Args:
        think, end_think, reflect, end_reflect: ids of the markers.
        tool_call: id of the marker that opens a tool call, or None.
        ends: ids that end an answer.
        encode: text to ids, none of them a marker's.
        text_of: the text of one id.
        decode: the text of several; None joins that of each.
        silent: ids that no reader of an answer sees: control tokens, and tokens flagged special.
        wordless: makes the ids whose text is blank or a part of a character; asked only where a last token is at stake.
    """

    think: int
    end_think: int
    reflect: int
    end_reflect: int
    tool_call: int | None
    ends: frozenset[int]
    encode: Callable[[str], Sequence[int]]
    text_of: Callable[[int], str]
    decode: Callable[[Sequence[int]], str] | None = None
    silent: frozenset[int] = frozenset()
    wordless: Callable[[], Sequence[int]] = tuple

    @classmethod
    def of(cls, tokenizer: Any, ends: Iterable[int] = ()) -> "ThinkingTokens":
        """Look them up in a tokenizer.

        Args:
            tokenizer: a SeedOssTokenizer.
            ends: ids that end an answer besides the tokenizer's own eos token and `<seed:eos>`.

        Raises:
            TokenizerError: the vocabulary has no markers of thinking.
        """
        added: dict[str, int] = tokenizer.get_added_vocab()

        def id_of(token: ControlToken) -> int | None:
            return added.get(token.text)

        ids = {token: id_of(token) for token in (THINK, END_THINK, REFLECT, END_REFLECT)}
        missing = [token.text for token, token_id in ids.items() if token_id is None]
        if missing:
            raise TokenizerError(
                f"the vocabulary has no {', '.join(missing)}, so this model does not think in the Seed format; leave "
                "the thinking budget out"
            )
        own = {token_id for token_id in (tokenizer.eos_token_id, id_of(EOS)) if token_id is not None}

        decoder = tokenizer.backend_tokenizer.get_added_tokens_decoder()
        plain = twin(tokenizer.backend_tokenizer, added_tokens=False)

        @cache
        def text_of(token_id: int) -> str:
            return tokenizer.decode([token_id])

        return cls(
            **dict(zip(("think", "end_think", "reflect", "end_reflect"), ids.values(), strict=True)),  # type: ignore[arg-type]
            tool_call=id_of(TOOL_CALL),
            ends=frozenset(ends) | own,
            encode=lambda text: plain.encode(text, add_special_tokens=False).ids,
            text_of=text_of,
            decode=tokenizer.decode,
            silent=frozenset(token_id for token_id, one in decoder.items() if one.special or one.content in _CONTROL),
            wordless=lambda: tokenizer.remembered(_wordless),
        )

    def is_content(self, token_id: int, begun: Sequence[int] = ()) -> bool:
        """Whether an answer is no longer blank with this token.

        Args:
            token_id: the token.
            begun: tokens before it that left a character half written.
        """
        if token_id == self.tool_call:
            return True
        if token_id in self.ends or token_id in self.silent or token_id in self._markers:
            return False
        text = self._text((*begun, token_id))
        return bool(text.rstrip(_HALF).strip()) or (text.endswith(_HALF) and len(begun) + 1 >= _MAX_PARTS)

    def is_half(self, token_id: int, begun: Sequence[int]) -> bool:
        """Whether a character is half written with this token."""
        return token_id not in self.silent and self._text((*begun, token_id)).endswith(_HALF)

    def blanks(self, begun: Sequence[int]) -> frozenset[int]:
        """Tokens after which nothing but blanks or half a character stands there, the marker of a call included."""
        blank, halves = self._blanks_and_halves
        return blank.union(one for one in halves if not begun or not self.is_content(one, begun))

    @cached_property
    def _blanks_and_halves(self) -> tuple[frozenset[int], tuple[int, ...]]:
        silent = (
            self.ends | self.silent | self._markers | ({self.tool_call} if self.tool_call is not None else set[int]())
        )
        halves = tuple(one for one in self.wordless() if one not in silent and self.is_half(one, ()))
        return silent.union(self.wordless()).difference(halves), halves

    @cached_property
    def _markers(self) -> frozenset[int]:
        return frozenset({self.think, self.end_think, self.reflect, self.end_reflect})

    def _text(self, token_ids: Sequence[int]) -> str:
        return "".join(map(self.text_of, token_ids)) if self.decode is None else self.decode(token_ids)


def _wordless(tokenizer: Any) -> tuple[int, ...]:
    """Ids whose text is blank or a part of a character, of the whole vocabulary at one go."""
    ids = [[token_id] for token_id in range(len(tokenizer))]
    texts = tokenizer.backend_tokenizer.decode_batch(ids, skip_special_tokens=False)
    return tuple(token_id for token_id, text in enumerate(texts) if not text.rstrip(_HALF).strip())
