"""One answer: streamed, counted, timed."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from seed_oss.cli.loading import Loaded

if TYPE_CHECKING:
    from torch import Tensor

    from seed_oss.cache import DynamicCache
    from seed_oss.generation import GenerateDecoderOnlyOutput


@dataclass(slots=True)
class Answer:
    """What an answer consists of so far.

    Attributes:
        pieces: the text, in the pieces in which it came.
        num_tokens: tokens, the one that ends the answer included.
        started: seconds of `clock` when the prompt was given to the model.
        first, last: seconds of `clock` when the first and the last token came.
    """

    clock: Callable[[], float] = time.perf_counter
    pieces: list[str] = field(default_factory=list[str])
    num_tokens: int = 0
    started: float = 0.0
    first: float = 0.0
    last: float = 0.0

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self.pieces)

    def count(self, num_tokens: int) -> None:
        """Note that tokens came, now."""
        self.last = self.clock()
        self.first = self.first or self.last
        self.num_tokens += num_tokens

    def summary(self) -> str:
        """How many tokens, and how fast those after the first one came."""
        if self.num_tokens < 2:
            return f"{self.num_tokens} token{'' if self.num_tokens == 1 else 's'}"
        rate = (self.num_tokens - 1) / max(self.last - self.first, 1e-9)
        return f"{self.num_tokens} tokens, {rate:.1f} tokens/s, the first after {self.first - self.started:.2f} s"


class _AnswerStreamer:
    """What `generate` hands tokens to: decodes them, keeps them in the answer and shows them."""

    def __init__(self, loaded: Loaded, answer: Answer, show: Callable[[str], None]) -> None:
        self._detokenizer = loaded.tokenizer.detokenizer(skip_special_tokens=True)
        self._answer = answer
        self._show = show
        self._is_prompt = True

    def put(self, value: "Tensor") -> None:
        """Take the prompt `[1, length]` first, then the ids of each step."""
        if self._is_prompt:
            self._is_prompt = False
            return
        self._answer.count(value.numel())
        self._add(self._detokenizer.put(value.reshape(-1).tolist()))

    def end(self) -> None:
        """Show what was held back."""
        self._add(self._detokenizer.finish())

    def _add(self, piece: str) -> None:
        if piece:
            self._answer.pieces.append(piece)
            self._show(piece)


def encode_prompt(loaded: Loaded, prompt: str) -> "Tensor":
    """Ids int64 `[1, length]` of a text that the model continues as it is."""
    return loaded.tokenizer(prompt, return_tensors="pt")["input_ids"]


def encode_messages(loaded: Loaded, messages: Sequence[dict[str, str]]) -> "Tensor":
    """Ids int64 `[1, length]` of a conversation in the checkpoint's own form, up to where the answer begins."""
    encoding = loaded.tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    return encoding["input_ids"]


def stream_answer(
    loaded: Loaded,
    input_ids: "Tensor",
    settings: dict[str, Any],
    show: Callable[[str], None],
    answer: Answer,
    cache: "DynamicCache | None" = None,
) -> "Tensor":
    """Let the model answer.

    Args:
        loaded: model and tokenizer.
        input_ids: int64 `[1, length]`.
        settings: keyword arguments of `generate`.
        show: gets every piece of text.
        answer: filled as tokens come, so that it holds what there is when the answer is interrupted.
        cache: keys and values of a beginning of `input_ids`.

    Returns:
        int64 `[1, length]`, prompt and answer.
    """
    from seed_oss.generation import generate

    answer.started = answer.clock()
    streamer = _AnswerStreamer(loaded, answer, show)
    prompt = input_ids.to(loaded.model.device)
    result = generate(
        loaded.model,
        prompt,
        streamer=streamer,
        past_key_values=cache,
        return_dict_in_generate=True,
        **settings,
    )
    return cast("GenerateDecoderOnlyOutput", result).sequences
