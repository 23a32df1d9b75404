"""Log-probabilities of an answer's tokens, in OpenAI's forms."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from seed_oss.chat.answer_start import answer_start
from seed_oss.chat.control_tokens import END_THINK, END_TOOL_CALL, THINK, TOOL_CALL, ControlToken, Piece
from seed_oss.engine.messages import LogProbs, Tokens
from seed_oss.server.texts import Texts

LOWEST = -9999.0  # what OpenAI gives for minus infinity, which JSON has not
_CHARS_PER_PROB = 32


@dataclass(frozen=True, slots=True)
class TokenProb:
    """A token of the content.

    Attributes:
        token_id: its id.
        value: its log-probability.
        top: ids and log-probabilities of the most probable tokens.
        start, end: the characters of the answer that it is.
    """

    token_id: int
    value: float
    top: tuple[tuple[int, float], ...]
    start: int
    end: int


class TokenProbs:
    """Goes with the text of one answer: a token's are shown when its text is. Thinking, calls and markers have none.

    Args:
        texts: of the model.
        num_top: how many probable tokens are shown beside each.
        start: the pieces of the prompt's last turn; None where all text is content.
        goes_on: the prompt ends inside the content; else blanks at its start are none of it.
    """

    def __init__(self, texts: Texts, num_top: int, start: Sequence[Piece] | None, *, goes_on: bool = False) -> None:
        self._texts, self._num_top = texts, num_top
        self._is_content = start is None or answer_start(start) in ("absent", "closed")
        self._has_markers = start is not None
        self._has_begun = start is None or goes_on
        self._waiting: list[TokenProb] = []

    def put(self, tokens: Tokens, place: int, pieces: Sequence[Piece], start: int, end: int) -> None:
        """Take a token.

        Args:
            tokens: what it came with.
            place: of the token in there.
            pieces: what the answer got with it.
            start, end: the characters of the answer that these are.
        """
        markers = [piece for piece in pieces if isinstance(piece, ControlToken)]
        if markers and self._has_markers:
            self._pass(markers[-1])
        elif self._is_content and tokens.logprobs is not None and not self._is_unseen(tokens.token_ids[place]):
            token_id = tokens.token_ids[place]
            self._has_begun = self._has_begun or not self._texts.text(token_id).isspace()
            if self._has_begun:
                self._waiting.append(token_prob(token_id, tokens.logprobs, place, self._num_top, start, end))

    def let(self, num_chars: int) -> list[TokenProb]:
        """Those of the tokens that end within the first characters of the answer."""
        num = next((at for at, one in enumerate(self._waiting) if one.end > num_chars), len(self._waiting))
        gone, self._waiting = self._waiting[:num], self._waiting[num:]
        return gone

    def rest(self, cut: int | None) -> list[TokenProb]:
        """Those that are left; without those of tokens behind a cut."""
        return [one for one in self._waiting if cut is None or one.start < cut]

    def _is_unseen(self, token_id: int) -> bool:
        """Whether a chat shows nothing of a token, such as another template's end of a turn."""
        return self._has_markers and self._texts.is_special(token_id)

    def _pass(self, marker: ControlToken) -> None:
        if marker in (THINK, TOOL_CALL):
            self._is_content = False
        elif marker in (END_THINK, END_TOOL_CALL):
            self._is_content = True


def token_prob(token_id: int, logprobs: LogProbs, place: int, num_top: int, start: int = 0, end: int = 0) -> TokenProb:
    """A token with its log-probabilities."""
    value = logprobs.values[place]
    ids, values = _row(logprobs.top_ids, place), _row(logprobs.top_values, place)
    top = tuple(zip(ids[:num_top], map(_finite, values[:num_top]), strict=False))
    return TokenProb(token_id, LOWEST if value is None else _finite(value), top, start, end)


def num_chars_of(num_tokens: int, num_top: int | None) -> int:
    """How long the JSON of tokens with their log-probabilities is, about.

    Args:
        num_tokens: how many there are.
        num_top: probable tokens beside each; None shows no probabilities.
    """
    return 0 if num_top is None else num_tokens * (2 + num_top) * _CHARS_PER_PROB


def chat_form(texts: Texts, probs: Sequence[TokenProb]) -> dict[str, Any]:
    """As chat completions have them."""
    return {"content": [_chat_token(texts, one) for one in probs], "refusal": None}


def _chat_token(texts: Texts, one: TokenProb) -> dict[str, Any]:
    return {
        **_named(texts, one.token_id, one.value),
        "top_logprobs": [_named(texts, token_id, value) for token_id, value in one.top],
    }


def _named(texts: Texts, token_id: int, value: float) -> dict[str, Any]:
    return {"token": texts.text(token_id), "logprob": value, "bytes": list(texts.bytes(token_id))}


def completion_form(texts: Texts, probs: Sequence[TokenProb], values: Sequence[float | None], offset: int) -> Any:
    """As completions have them.

    Args:
        texts: of the model.
        probs: the tokens.
        values: their log-probabilities, None for a first one that has none.
        offset: characters before the answer.
    """
    # Of tokens with the same text the most probable one is kept.
    tops = [{texts.text(token_id): value for token_id, value in reversed(one.top)} for one in probs]
    return {
        "tokens": [texts.text(one.token_id) for one in probs],
        "token_logprobs": list(values),
        "top_logprobs": tops,
        "text_offset": [offset + one.start for one in probs],
    }


def _row(rows: Sequence[Any], place: int) -> tuple[Any, ...]:
    return tuple(rows[place]) if place < len(rows) else ()


def _finite(value: float) -> float:
    return value if value > LOWEST else LOWEST
