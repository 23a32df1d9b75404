"""Reads the tokens of an answer that is plain text: markers are shown as they are spelled."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from seed_oss.chat.control_tokens import BOS, EOS, PAD, Piece, join
from seed_oss.engine.messages import Ended, Tokens
from seed_oss.engine.stops import StopCutter
from seed_oss.server.texts import Texts
from seed_oss.server.token_probs import TokenProb, TokenProbs

_UNSEEN = (BOS, EOS, PAD)


@dataclass
class TextStep:
    """What has become certain of an answer.

    Attributes:
        texts: more of it, in pieces.
        probs: of its tokens, if they were asked for.
    """

    texts: list[str] = field(default_factory=list[str])
    probs: list[TokenProb] = field(default_factory=list[TokenProb])

    def __bool__(self) -> bool:
        return bool(self.text or self.probs)

    @property
    def text(self) -> str:
        """More of the answer."""
        return "".join(self.texts)

    def add(self, more: "TextStep") -> None:
        """What comes next."""
        self.texts += more.texts
        self.probs += more.probs


class TextReader:
    """Reads the tokens of one choice.

    Args:
        texts: of the model.
        stops: strings that may end the answer.
        before: the end of the prompt's text.
        num_top: how many probable tokens are shown beside each; None shows no probabilities.
    """

    def __init__(self, texts: Texts, stops: Sequence[str], before: str, num_top: int | None) -> None:
        self._detokenizer = texts.detokenizer()
        self._cutter = StopCutter(stops, before)
        self._has_stops = bool(stops)
        self._probs = None if num_top is None else TokenProbs(texts, num_top, None)
        self.num_tokens = 0

    def feed(self, tokens: Tokens) -> TextStep:
        """Take new tokens."""
        step = TextStep()
        self.num_tokens += len(tokens.token_ids)
        if self._probs is None and not self._has_stops:  # nothing hangs on which token a piece comes of
            step.texts.append(join(self._cutter.feed(self._pieces(list(tokens.token_ids)))))
            return step
        for place, token_id in enumerate(tokens.token_ids):
            pieces = self._pieces([token_id])
            start = self._cutter.num_taken
            step.texts.append(join(self._cutter.feed(pieces)))
            if self._probs is not None:
                self._probs.put(tokens, place, pieces, start, self._cutter.num_taken)
                step.probs += self._probs.let(self._cutter.num_let)
        return step

    def _pieces(self, token_ids: list[int]) -> list[Piece]:
        return [one for one in self._detokenizer.put_pieces(token_ids) if one not in _UNSEEN]

    def stop_of(self, ended: Ended) -> str | int | None:
        """The text or token that ended the answer, once it has."""
        return self._cutter.stop if ended.stop is None else ended.stop

    def finish(self, ended: Ended) -> TextStep:
        """Nothing follows."""
        text = join(self._cutter.finish(self._detokenizer.finish_pieces(), ended))
        if self._probs is None:
            return TextStep([text])
        was_cut = self._cutter.num_let < self._cutter.num_taken
        return TextStep([text], self._probs.rest(self._cutter.num_let if was_cut else None))
