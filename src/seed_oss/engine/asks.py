"""What users of the Python API ask, made into requests. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from seed_oss.chat.budget import ThinkingBudget
from seed_oss.chat.tokenizer import SeedOssTokenizer
from seed_oss.config.generation import GenerationConfig
from seed_oss.config.sampling import SamplingParams
from seed_oss.engine.conversation_memory import ConversationMemory, WrittenAnswer, open_turn, owner_of
from seed_oss.engine.gathered import Gathered
from seed_oss.engine.messages import AnswerForm
from seed_oss.engine.turn_memory import RememberedPrompt
from seed_oss.errors import InputError, TokenizerError

Prompt = str | Sequence[int]
Adapters = str | Sequence[str | None] | None


@dataclass(frozen=True)
class ChatAsk:
    """How a conversation is answered.

    Attributes:
        form: what the answer is held to.
        cache_turns: generated tokens stand for the answers of the history, and the answer is remembered.
        reuse_reasoning: answers whose thinking the history leaves out keep it, where it is remembered.
    """

    form: AnswerForm
    cache_turns: bool = True
    reuse_reasoning: bool = False


class Asks:
    """Makes prompts into token ids, and remembers answers of chats for the next prompts of their conversations.

    Args:
        given: the model's tokenizer, or None.
        generation: of its generation_config.json, or None.
    """

    def __init__(self, given: SeedOssTokenizer | None, generation: GenerationConfig | None = None) -> None:
        self._given = given
        self._memory = None if given is None else ConversationMemory(given, generation)

    @property
    def tokenizer(self) -> SeedOssTokenizer:
        """Of the model.

        Raises:
            TokenizerError: it has none.
        """
        if self._given is None:
            raise TokenizerError("this model has no tokenizer; give prompts as lists of token ids")
        return self._given

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """The ids of a prompt."""
        return tuple(self.tokenizer.encode(prompt)) if isinstance(prompt, str) else tuple(prompt)

    def chat(self, messages: Any, ask: ChatAsk, adapter: str | None) -> RememberedPrompt:
        """The prompt of a conversation, up to where the answer begins.

        Args:
            messages: the conversation.
            ask: how it is answered.
            adapter: what another one generated is not known.

        Raises:
            InputError, TemplateError: it cannot be rendered.
        """
        tokenizer, form = self.tokenizer, ask.form
        budget = ThinkingBudget(form.thinking_budget, form.budget_mode)  # type: ignore[arg-type]

        def render(some: Sequence[Mapping[str, Any]], is_answered: bool) -> tuple[int, ...]:
            return conversation_ids(tokenizer, some, tools=form.tools, budget=budget, is_answered=is_answered)

        assert self._memory is not None  # there is a tokenizer
        takes, reuses, owner = ask.cache_turns, ask.reuse_reasoning, owner_of("", adapter)
        return self._memory.prompt(owner, list(messages), render, takes_turns=takes, reuse_reasoning=reuses)

    def remember(self, found: Gathered, ask: ChatAsk) -> None:
        """Keep the answers of a chat that has ended."""
        submit, owner = found.submit, owner_of("", found.submit.adapter)
        if self._memory is None or not ask.cache_turns:
            return
        num_prompt, opening = len(submit.prompt_ids), tuple(open_turn(self.tokenizer, found.prompt_ids))
        for choice, ended in found.ends.items():
            ids, suffix = tuple(found.token_ids.get(choice, ())), found.prompt_ids[num_prompt:]
            is_cut = ended.reason == "length"
            written = WrittenAnswer(submit.prompt_ids, suffix, ids, ask.form.tools, opening, is_cut=is_cut)
            self._memory.take(owner, written)
        self._memory.read_pending(owner)


def conversation_ids(
    tokenizer: SeedOssTokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    budget: ThinkingBudget,
    variables: Mapping[str, Any] | None = None,
    is_answered: bool = True,
    goes_on: bool = False,
) -> tuple[int, ...]:
    """The tokens of a conversation.

    Args:
        tokenizer: of the model.
        messages: the conversation.
        tools: tools as JSON schemas, or None.
        budget: of thinking.
        variables: of the template.
        is_answered: an answer follows, so that its turn is opened.
        goes_on: the last message is the beginning of the answer.

    Raises:
        TemplateError, TokenizerError, InputError: it cannot be rendered.
    """
    given = dict(variables or {})
    if budget.template_value != -1:
        given["thinking_budget"] = budget.template_value
    ids: list[int] = tokenizer.apply_chat_template(
        list(messages),
        tools=tools or None,
        add_generation_prompt=is_answered and not goes_on,
        continue_final_message=goes_on,
        return_dict=False,
        tokenizer_kwargs={"verbose": False},
        **given,
    )
    return tuple(ids)


def chat_ask(
    thinking_budget: Any,
    tools: Sequence[Mapping[str, Any]] | None,
    tool_choice: Any,
    response_format: Any,
    parallel_tool_calls: bool,
    loop_guard: bool,
    cache_turns: bool,
    reuse_reasoning: bool,
) -> ChatAsk:
    """How a chat is answered, from the arguments of `LLM.chat`.

    Raises:
        InputError: the budget is none, or whether turns are cached or reasoning is reused is no bool.
    """
    for name, value in {"cache_turns": cache_turns, "reuse_reasoning": reuse_reasoning}.items():
        if value not in (True, False):
            raise InputError(f"{name} is {value!r:.60}; it must be True or False")
    budget = ThinkingBudget.of(thinking_budget)
    held = AnswerForm(budget.tokens, budget.mode, tools, tool_choice, response_format, parallel_tool_calls, loop_guard)
    return ChatAsk(held, cache_turns, reuse_reasoning)


def as_prompts(prompts: Any) -> list[Prompt]:
    """One prompt or several, as a list.

    Raises:
        InputError: something is neither text nor ids.
    """
    if isinstance(prompts, str) or (isinstance(prompts, list | tuple) and prompts and _is_ids(prompts)):
        prompts = [prompts]
    if not isinstance(prompts, list | tuple):
        raise InputError(f"prompts is {prompts!r:.80}; it must be a text, a list of token ids, or a list of such")
    many = list(cast("Sequence[Any]", prompts))
    for one in many:
        if not isinstance(one, str) and not _is_ids(one):
            raise InputError(f"a prompt is {one!r:.80}; it must be a text or a list of token ids")
    return many


def _is_ids(value: Any) -> bool:
    tokens: Any = value if isinstance(value, list | tuple) else (None,)
    return all(isinstance(token, int) and not isinstance(token, bool) for token in tokens)


def for_each(params: SamplingParams | Sequence[SamplingParams] | None, count: int) -> list[SamplingParams]:
    """Settings for each prompt.

    Raises:
        InputError: another number of them, or something else.
    """
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * count
    given: Any = params
    if not isinstance(given, list | tuple) or not all(isinstance(one, SamplingParams) for one in given):
        raise InputError(f"sampling_params is {given!r:.80}; give a SamplingParams, or a list with one for each prompt")
    if len(params) != count:
        raise InputError(f"sampling_params has {len(params)} entries for {count} prompts; give one, or one for each")
    return list(params)


def adapters_of(adapter: Adapters, count: int) -> list[str | None]:
    """The adapter of each prompt, or None.

    Raises:
        InputError: another number of them.
    """
    names = [adapter] * count if adapter is None or isinstance(adapter, str) else list(adapter)
    if len(names) != count:
        raise InputError(f"adapter has {len(names)} entries for {count} prompts; give one name, or one for each")
    return names


def lora_texts(lora: Any) -> tuple[str, ...]:
    """Adapters as the engine's settings have them, from folders by name; texts are left as they are.

    Raises:
        InputError: it is neither.
    """
    if lora is None:
        return ()
    if isinstance(lora, Mapping):
        return tuple(f"{name}={folder}" for name, folder in cast("Mapping[str, Any]", lora).items())
    if isinstance(lora, list | tuple) and all(isinstance(one, str) for one in cast("Sequence[Any]", lora)):
        return tuple(cast("Sequence[str]", lora))
    raise InputError("lora is no mapping from names to folders; write {'NAME': 'FOLDER'}")
