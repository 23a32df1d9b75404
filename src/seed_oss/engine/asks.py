"""What users of the Python API ask, made into requests. No torch."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from seed_oss.chat.budget import ThinkingBudget
from seed_oss.chat.tokenizer import SeedOssTokenizer
from seed_oss.config.sampling import SamplingParams
from seed_oss.engine.messages import AnswerForm
from seed_oss.errors import InputError, TokenizerError

Prompt = str | Sequence[int]
Adapters = str | Sequence[str | None] | None


class Asks:
    """Makes prompts into token ids.

    Args:
        given: the model's tokenizer, or None.
    """

    def __init__(self, given: SeedOssTokenizer | None) -> None:
        self._given = given

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

    def render(self, messages: Any, form: AnswerForm) -> tuple[int, ...]:
        """The ids of a conversation, up to where the answer begins.

        Raises:
            InputError, TemplateError: it cannot be rendered.
        """
        budget = ThinkingBudget(form.thinking_budget, form.budget_mode)  # type: ignore[arg-type]
        variables: dict[str, Any] = {}
        if budget.template_value != -1:
            variables["thinking_budget"] = budget.template_value
        ids: list[int] = self.tokenizer.apply_chat_template(
            list(messages), tools=form.tools, add_generation_prompt=True, return_dict=False, **variables
        )
        return tuple(ids)


def answer_form(
    thinking_budget: Any,
    tools: Sequence[Mapping[str, Any]] | None,
    tool_choice: Any,
    response_format: Any,
    parallel_tool_calls: bool,
    loop_guard: bool,
) -> AnswerForm:
    """What an answer of a chat is held to, from the arguments of `LLM.chat`.

    Raises:
        InputError: the budget is none.
    """
    budget = ThinkingBudget.of(thinking_budget)
    return AnswerForm(budget.tokens, budget.mode, tools, tool_choice, response_format, parallel_tool_calls, loop_guard)


def as_prompts(prompts: Any) -> list[Prompt]:
    """One prompt or several, as a list.

    Raises:
        InputError: something is neither text nor ids.
    """
    if isinstance(prompts, str) or (prompts and _is_ids(prompts)):
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
        InputError: another number of them.
    """
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * count
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
