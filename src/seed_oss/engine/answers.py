"""What the engine says, read for users of the Python API: texts, messages, and both while they come. No torch."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from seed_oss.chat.assistant_message import AssistantMessage
from seed_oss.chat.control_tokens import Piece, join
from seed_oss.chat.events import Event as ChatEvent
from seed_oss.chat.stream_parser import StreamParser
from seed_oss.chat.tokenizer import SeedOssTokenizer
from seed_oss.engine.gathered import Gathered
from seed_oss.engine.messages import Ended, Tokens
from seed_oss.engine.outputs import ChatOutput, Completion, Delta, RequestOutput, Score, TokenVectors, Vector
from seed_oss.engine.stops import StopCutter
from seed_oss.engine.turn_memory import TurnUse
from seed_oss.errors import TokenizerError

_CUT_OFF = ("length", "grammar_error", "timeout", "abort")  # ends that were none of the model's


class Answers:
    """Reads what requests came to.

    Args:
        tokenizer: of the model; None leaves texts empty.
    """

    def __init__(self, tokenizer: SeedOssTokenizer | None) -> None:
        self._tokenizer = tokenizer

    def output(self, prompt: Any, found: Gathered) -> RequestOutput:
        """All answers to a prompt, which is shown if it is text."""
        return RequestOutput(
            prompt if isinstance(prompt, str) else None,
            found.prompt_ids,
            tuple(self._completion(found, choice) for choice in range(found.num_choices)),
            found.prompt_logprobs,
            found.ends[0].num_cached_tokens,
        )

    def chat_output(self, found: Gathered, tools: Any, turns: Sequence[TurnUse] = ()) -> ChatOutput:
        """All answers to a conversation, and what became of those in its history."""
        request = self.output(None, found)
        stops = found.submit.params.stops
        return ChatOutput(
            tuple(self._message(found, one, tools, stops) for one in request.outputs), request, tuple(turns)
        )

    def text_reader(self, choice: int, stops: Sequence[str]) -> "TextReader":
        """Reads the text of a choice while it comes."""
        return TextReader(self._known, choice, stops)

    def chat_reader(self, prompt_ids: Sequence[int], tools: Any, stops: Sequence[str]) -> "ChatReader":
        """Reads an answer of a chat while it comes."""
        return ChatReader(self._known, prompt_ids, tools, stops)

    @property
    def _known(self) -> SeedOssTokenizer:
        if self._tokenizer is None:
            raise TokenizerError("this model has no tokenizer; there is no text to stream")
        return self._tokenizer

    def _completion(self, found: Gathered, choice: int) -> Completion:
        end, ids = found.ends[choice], found.token_ids.get(choice, [])
        text, stop = "" if self._tokenizer is None else self._tokenizer.decode(ids, skip_special_tokens=True), end.stop
        if end.reason == "stop_string":
            text, stop = self._cut(found, choice)
        logprobs = found.logprobs_of(choice)
        return Completion(choice, text, tuple(ids), end.reason, stop, logprobs, end.num_reasoning_tokens)

    def _cut(self, found: Gathered, choice: int) -> tuple[str, str | None]:
        """The text of a choice up to the stop string that ended it, and that string."""
        detokenizer, start = self._known.detokenizer(skip_special_tokens=True), None
        if found.submit.form is not None:
            opening = self._known.detokenizer()
            start = [*opening.put_pieces(list(found.prompt_ids)), *opening.finish_pieces()]
        cutter = StopCutter(found.submit.params.stops, start=start)
        tokens = found.token_ids.get(choice, [])
        pieces = [one for token in tokens for one in cutter.feed(detokenizer.put_pieces([token]))]
        pieces += cutter.finish(detokenizer.finish_pieces(), found.ends[choice])
        return join(pieces), cutter.stop

    def _message(self, found: Gathered, answer: Completion, tools: Any, stops: Sequence[str]) -> AssistantMessage:
        reader = self.chat_reader(found.prompt_ids, tools, stops)
        events = reader.feed(answer.token_ids) + reader.finish(found.ends[answer.index])
        message = AssistantMessage.from_events(events)
        is_cut = answer.finish_reason in _CUT_OFF and not message.ended
        return replace(message, truncated=message.truncated or "content") if is_cut else message


def vector_of(found: Gathered) -> Vector:
    """The one row of numbers that a prompt came to."""
    return Vector(found.values[0], found.submit.prompt_ids)


def token_vectors_of(found: Gathered) -> TokenVectors:
    """The rows of numbers of a prompt's tokens."""
    return TokenVectors(found.values, found.submit.prompt_ids)


def score_of(found: Gathered) -> Score:
    """How probable a prompt is."""
    probs = found.prompt_logprobs
    assert probs is not None
    return Score(sum(value for value in probs.values if value is not None), probs, found.submit.prompt_ids)


class TextReader:
    """The text of one choice, as far as it is certain.

    Args:
        tokenizer: of the model.
        choice: which.
        stops: strings that may end it.
    """

    def __init__(self, tokenizer: SeedOssTokenizer, choice: int, stops: Sequence[str]) -> None:
        self._detokenizer = tokenizer.detokenizer(skip_special_tokens=True)
        self._cutter, self._choice = StopCutter(stops), choice

    def feed(self, tokens: Tokens) -> Delta:
        """Take new tokens."""
        pieces = [self._cutter.feed(self._detokenizer.put_pieces([one])) for one in tokens.token_ids]
        text = "".join(join(one) for one in pieces)
        return Delta(self._choice, text, tokens.token_ids, tokens.logprobs)

    def finish(self, ended: Ended) -> Delta:
        """Nothing follows."""
        text = join(self._cutter.finish(self._detokenizer.finish_pieces(), ended))
        return Delta(self._choice, text, (), None, ended.reason)


class ChatReader:
    """The events of one answer of a chat. Stop strings are looked for in its content and what follows, as generated.

    Args:
        tokenizer: of the model.
        prompt_ids: up to where the answer begins.
        tools: in the prompt.
        stops: strings that may end it.
    """

    def __init__(
        self, tokenizer: SeedOssTokenizer, prompt_ids: Sequence[int], tools: Any, stops: Sequence[str]
    ) -> None:
        opening = tokenizer.detokenizer()
        prompt: list[Piece] = [*opening.put_pieces(list(prompt_ids)), *opening.finish_pieces()]
        self._parser = StreamParser(tools, prompt, text_is_plain=True)
        self._detokenizer, self._cutter = (
            tokenizer.detokenizer(skip_special_tokens=True),
            StopCutter(stops, start=prompt),
        )

    def feed(self, token_ids: Sequence[int]) -> list[ChatEvent]:
        """Take new tokens."""
        pieces = [one for token in token_ids for one in self._cutter.feed(self._detokenizer.put_pieces([token]))]
        return [event for piece in pieces for event in self._parser.feed(piece)]

    def finish(self, ended: Ended) -> list[ChatEvent]:
        """Nothing follows."""
        pieces = self._cutter.finish(self._detokenizer.finish_pieces(), ended)
        return [*(event for piece in pieces for event in self._parser.feed(piece)), *self._parser.finish()]
