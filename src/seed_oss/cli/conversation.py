"""A conversation whose keys and values are kept from turn to turn."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from seed_oss.chat.assistant_message import AssistantMessage
from seed_oss.chat.budget import ThinkingBudget
from seed_oss.cli.answer_view import AnswerView
from seed_oss.cli.answering import Answer, end_token_ids, generation_arguments, run_stream
from seed_oss.cli.forms import after_first_round, note_on_form
from seed_oss.cli.loading import Loaded
from seed_oss.cli.tool_runner import CUT_OFF, STOPPED, ToolRunner

if TYPE_CHECKING:
    from seed_oss.cache import DynamicCache
    from seed_oss.chat.output_format import OutputFormat
    from seed_oss.models.chat import ChatStream

MAX_ROUNDS = 8  # of tool calls in one turn


class Conversation:
    """Messages so far, and the cache of the last turn; a turn computes only what is new in it.

    Args:
        loaded: model and tokenizer.
        settings: keyword arguments of `generate`, `max_new_tokens` among them.
        view: shows answers.
        tools: answers the model's calls.
        system: system message, or None.
        budget: thinking budget.
        tool_choice: what the model does with the tools, as OpenAI's API writes it; a call that must come is the first
            answer of a turn.
        response_format: the form of answers, or None.
    """

    def __init__(
        self,
        loaded: Loaded,
        settings: dict[str, Any],
        view: AnswerView,
        tools: ToolRunner,
        system: str | None = None,
        budget: ThinkingBudget | None = None,
        *,
        tool_choice: Any = None,
        response_format: "OutputFormat | None" = None,
    ) -> None:
        self._loaded = loaded
        self._max_new_tokens, self._settings = generation_arguments(settings)
        self._view = view
        self._tools = tools
        self._system = system
        self._budget = budget or ThinkingBudget()
        self._tool_choice, self._response_format = tool_choice, response_format
        self.reset()

    def reset(self) -> None:
        """Forget all but the system message."""
        system = self._system
        self.messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
        self._forget_cache()

    def reply(self, message: str, note: Callable[[str], None] = lambda text: None) -> Answer:
        """Answer a message, tool calls and what follows from their results included.

        Args:
            message: what the user says.
            note: gets what the user should know of the turn.

        Returns:
            How many tokens came; an answer stopped with Ctrl-C is not whole and stays in the conversation as far as it
            came. If no more than thinking came, the message is taken back.

        Raises:
            SeedOssError: there is no answer; the message is taken back.
        """
        before = self.messages
        self.messages = [*before, {"role": "user", "content": message}]
        self._view.thinking.clear()
        answer = Answer()
        try:
            self._answer_all(answer, note)
        except KeyboardInterrupt:
            answer.is_whole = False
            self._forget_cache()  # it may have been stopped between two layers
        except BaseException:
            self.messages = before
            self._forget_cache()
            raise
        finally:
            self._view.end_line()
        if self.messages[-1]["role"] == "user":
            self.messages = before
        return answer

    def _answer_all(self, answer: Answer, note: Callable[[str], None]) -> None:
        for num_round in range(MAX_ROUNDS + 1):
            choice = self._tool_choice if num_round == 0 else after_first_round(self._tool_choice)
            message = self._answer_once(answer, choice, note)
            calls = len(message.tool_calls) + len(message.broken_calls)
            if not calls or not answer.is_whole:
                return
            refusal = None if num_round < MAX_ROUNDS else f"Not run: {MAX_ROUNDS} rounds of calls are the limit."
            is_cut = message.truncated == "tool_call" and not message.ended
            results, is_stopped = self._tools.results(message, CUT_OFF if is_cut else refusal)
            self.messages += results
            if is_stopped or is_cut:
                answer.is_whole = not is_stopped
                return
        note(f"The model called tools {MAX_ROUNDS} times in a row; that is the limit of one turn.")

    def _answer_once(self, answer: Answer, tool_choice: Any, note: Callable[[str], None]) -> AssistantMessage:
        """Generate one message and add it to the conversation; `answer.is_whole` says whether it was stopped."""
        from seed_oss.models.chat import ChatStream, prepare_turn

        turn = prepare_turn(
            self._loaded.tokenizer,
            self.messages,
            tools=self._tools.definitions,
            tool_choice=tool_choice,
            response_format=self._response_format,
            vocab_size=self._loaded.model.config.vocab_size,
            thinking_budget=self._budget,
            max_new_tokens=self._max_new_tokens,
            end_token_ids=end_token_ids(self._loaded),
        )
        ids: list[int] = turn.input_ids[0].tolist()
        cache = self._cache_for(ids)
        self._view.begin(self._budget.tokens, is_seed=turn.thinking is not None)
        answer.begin()
        settings = {**self._settings, "past_key_values": cache}
        stream = ChatStream(self._loaded.model, self._loaded.tokenizer, turn, settings)
        try:
            run_stream(stream, self._view.show, answer)
        except KeyboardInterrupt:
            answer.is_whole = False
            self._forget_cache()  # it may have been stopped between two layers
            self._keep_stopped(stream)
        else:
            self._cache, self._cached_ids = cache, [*ids, *stream.new_ids][: cache.get_seq_length()]
            self.messages.append(_as_message(stream.message))
            said = note_on_form(stream, self._response_format)
            if said is not None:
                note(said)
        return stream.message

    def _keep_stopped(self, stream: "ChatStream") -> None:
        """An answer that was stopped stays as far as it came, unless that was thinking only."""
        message = stream.message
        if message.content or message.tool_calls:
            self.messages.append(message.to_openai())
            self.messages += self._tools.results(message, STOPPED)[0]

    def _cache_for(self, ids: list[int]) -> "DynamicCache":
        """The cache, cut to what it has in common with `ids`; at least one id is left to compute."""
        from seed_oss.cache import DynamicCache

        num_common = 0
        for cached, wanted in zip(self._cached_ids, ids[:-1], strict=False):
            if cached != wanted:
                break
            num_common += 1
        if self._cache is None or num_common == 0:
            return DynamicCache(config=self._loaded.model.config)
        self._cache.crop(num_common)
        return self._cache

    def _forget_cache(self) -> None:
        self._cache: DynamicCache | None = None
        self._cached_ids: list[int] = []


def _as_message(message: AssistantMessage) -> dict[str, Any]:
    """The message for the next prompt; the model's broken calls stay in it as text, for it to see what it wrote."""
    written = message.to_openai()
    broken = [call.raw.strip() for call in message.broken_calls]
    if broken:
        written["content"] = "\n".join(part for part in (message.content, *broken) if part)
    return written
