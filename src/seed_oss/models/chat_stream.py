"""An answer as events, while it is generated in another thread."""

import atexit
import queue
import threading
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from seed_oss.chat.assistant_message import AssistantMessage
from seed_oss.chat.control_tokens import Piece
from seed_oss.chat.events import Event
from seed_oss.chat.stream_parser import StreamParser
from seed_oss.chat.tokenizer import SeedOssTokenizer
from seed_oss.generation import generate
from seed_oss.generation.row_control import GRAMMAR_ERROR
from seed_oss.generation.stopping import StoppingCriteria, StoppingCriteriaList
from seed_oss.generation.streamers import BaseStreamer
from seed_oss.models.chat_turn import ChatTurn, ChatUsage

_CUT_OFF = ("length", "time", GRAMMAR_ERROR)  # reasons of an end that was none of the model's


class ChatStream(Iterator[Event]):
    """The events of an answer while it is generated, in another thread.

    Closing the stream, leaving a `with`, dropping it and ending the process stop that after the token being computed.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        turn: the prompt.
        settings: keyword arguments of `generate`.

    Attributes:
        new_ids: the answer's tokens so far.
        finish_reason: why the answer ended ("eos", "length", "stop_string", "time", "loop", "grammar_error" where the
            form of the answer left no token, "criteria" if it was closed), once it has.
    """

    def __init__(self, model: Any, tokenizer: SeedOssTokenizer, turn: ChatTurn, settings: Mapping[str, Any]) -> None:
        self.turn = turn
        self.new_ids: list[int] = []
        self._events: list[Event] = []
        self._ready: list[Event] = []
        self._detokenizer = tokenizer.detokenizer(skip_special_tokens=True)
        self._parser = StreamParser(turn.tools, _prompt_pieces(tokenizer, turn.input_ids), text_is_plain=True)
        self._is_over = False
        self._work = _Work(turn)
        self._work.start(model, tokenizer, dict(settings))

    @property
    def finish_reason(self) -> str | None:
        """See the attributes."""
        return self._work.finish_reason

    def __next__(self) -> Event:
        while not self._ready:
            if self._is_over:
                raise StopIteration
            self._take(self._work.steps.get())
        event = self._ready.pop(0)
        self._events.append(event)
        return event

    def __enter__(self) -> "ChatStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        work: _Work | None = getattr(self, "_work", None)
        if work is not None:
            work.stop.set()

    def close(self) -> None:
        """Stop after the token that is being computed; what has come stays."""
        self._work.end()

    @property
    def message(self) -> AssistantMessage:
        """The answer as far as its events were taken; one that was cut off says so."""
        message = AssistantMessage.from_events(self._events)
        is_cut = self._is_over and self.finish_reason in _CUT_OFF and not message.ended
        return replace(message, truncated=message.truncated or "content") if is_cut else message

    @property
    def usage(self) -> ChatUsage:
        """Tokens so far."""
        reasoning = self.turn.reasoning_tokens(self.new_ids)
        return ChatUsage(self.turn.input_ids.shape[1], len(self.new_ids), reasoning)

    def _take(self, step: "list[int] | BaseException | None") -> None:
        if isinstance(step, BaseException):
            self._is_over = True
            raise step
        if step is None:
            self._is_over = True
            pieces = self._detokenizer.finish_pieces()
            self._ready += [event for piece in pieces for event in self._parser.feed(piece)]
            self._ready += self._parser.finish()
            return
        self.new_ids += step
        for piece in self._detokenizer.put_pieces(step):
            self._ready += self._parser.feed(piece)


@dataclass(eq=False)
class _Work:
    """What the thread has in common with the stream: all but the stream itself, so that this can be dropped.

    Args:
        turn: the prompt.
        steps: each step's tokens, then None, or the error that ended the generation.
        stop: set when no more is wanted.
        finish_reason: why the answer ended, once it has.
        thread: the thread, once it runs.
    """

    turn: ChatTurn
    steps: "queue.Queue[list[int] | BaseException | None]" = field(default_factory=queue.Queue)
    stop: threading.Event = field(default_factory=threading.Event)
    finish_reason: str | None = None
    thread: threading.Thread | None = None

    def start(self, model: Any, tokenizer: SeedOssTokenizer, settings: dict[str, Any]) -> None:
        """Begin to generate."""
        arguments = (self, model, tokenizer, settings)
        self.thread = threading.Thread(target=_generate, args=arguments, name="seed-oss-chat", daemon=True)
        self.thread.start()
        _RUNNING.add(self)

    def end(self) -> None:
        """Stop after the token that is being computed, and wait for that."""
        self.stop.set()
        if self.thread is not None:
            self.thread.join()


_RUNNING: "weakref.WeakSet[_Work]" = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """A thread that is still inside torch when the interpreter goes away takes the process down with it."""
    for work in list(_RUNNING):
        work.end()


def _generate(work: _Work, model: Any, tokenizer: SeedOssTokenizer, settings: dict[str, Any]) -> None:
    """Generate; what comes of it is put into `work`."""
    criteria = StoppingCriteriaList([*(settings.pop("stopping_criteria", None) or ()), _Stopped(work.stop)])
    try:
        output: Any = generate(
            model,
            work.turn.input_ids.to(model.device),
            streamer=_StepStreamer(work.steps),
            stopping_criteria=criteria,
            row_controls=[work.turn.row_controls],
            tokenizer=tokenizer,
            max_new_tokens=work.turn.max_new_tokens,
            return_dict_in_generate=True,
            **{"num_return_sequences": 1, "num_beams": 1, **settings},
        )
    except BaseException as error:  # noqa: BLE001 - raised again where the events are read
        work.steps.put(error)
    else:
        work.finish_reason = output.finish_reasons[0]
        work.steps.put(None)


@dataclass
class _Stopped(StoppingCriteria):
    """Stops when asked to."""

    stop: threading.Event = field(default_factory=threading.Event)

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> bool:
        """See StoppingCriteria."""
        return self.stop.is_set()


class _StepStreamer(BaseStreamer):
    """Hands each step's token on."""

    def __init__(self, steps: "queue.Queue[list[int] | BaseException | None]") -> None:
        self._steps = steps
        self._is_prompt = True

    def put(self, value: Tensor) -> None:
        """Take the prompt first, then each step's ids."""
        if self._is_prompt:
            self._is_prompt = False
            return
        self._steps.put(value.reshape(-1).tolist())

    def end(self) -> None:
        """Nothing more; the end is told once `generate` returns."""


def _prompt_pieces(tokenizer: SeedOssTokenizer, input_ids: Tensor) -> list[Piece]:
    detokenizer = tokenizer.detokenizer()
    return [*detokenizer.put_pieces(input_ids[0].tolist()), *detokenizer.finish_pieces()]
