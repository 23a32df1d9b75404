"""A request made ready to run: checked, its prompt complete, one row for each answer that is wanted."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from seed_oss.chat.budget import ThinkingBudget
from seed_oss.chat.tokenizer import SeedOssTokenizer
from seed_oss.config import GenerationConfig
from seed_oss.config.sampling import as_ids
from seed_oss.engine.batch import NewRow, RowKey
from seed_oss.engine.generated_row import GeneratedRow
from seed_oss.engine.messages import AnswerForm, Submit
from seed_oss.engine.prompt_tasks import PromptTasks
from seed_oss.engine.ready_row import ReadyRow
from seed_oss.errors import InputError
from seed_oss.generation.dry import DEFAULT_BREAKERS, DryBreakers, find_breakers
from seed_oss.generation.loop_guard import LoopGuard
from seed_oss.generation.prompt import eos_ids
from seed_oss.models.chat_turn import ChatTurn, ReasoningMeter, steered_turn

_MAX_BREAKERS = 32  # sets of DRY's breakers that are kept


@dataclass(frozen=True)
class ServedTasks:
    """What requests may ask for.

    Attributes:
        tasks: their names.
        vocab_size: length of the logits.
        max_model_len: most tokens of a prompt and its answer.
        adapters: digest of each adapter by its name.
        length_variant: from the most tokens a row will have to a number for what keys depend on of that.
    """

    tasks: frozenset[str]
    vocab_size: int
    max_model_len: int
    adapters: Mapping[str, bytes]
    length_variant: Callable[[int], int]


@dataclass(frozen=True)
class ReadyRequest:
    """A request that may be scheduled.

    Attributes:
        submit: the request.
        rows: one for each choice.
        suffix_ids: tokens put behind the prompt.
        max_tokens: most new tokens of each choice.
    """

    submit: Submit
    rows: tuple[ReadyRow, ...]
    suffix_ids: tuple[int, ...] = ()
    max_tokens: int = 0


class Intake:
    """Makes requests ready.

    Args:
        served: what may be asked for.
        model_config: generation_config.json of the model.
        tokenizer: of the model; None serves token ids without stop strings, breakers and chats.
        prompt_tasks: makes what follows the prompts.
    """

    def __init__(
        self,
        served: ServedTasks,
        model_config: GenerationConfig,
        tokenizer: SeedOssTokenizer | None,
        prompt_tasks: PromptTasks,
    ) -> None:
        self._served, self._model_config, self._tokenizer = served, model_config, tokenizer
        self._prompt_tasks = prompt_tasks
        self._breakers = lru_cache(_MAX_BREAKERS)(lambda texts: find_breakers(texts, tokenizer))

    def may_take_long(self, submit: Submit) -> bool:
        """Whether `prepare` may take longer than a step should wait: a grammar, or a search through the vocabulary."""
        form, multiplier = submit.form, submit.params.dry_multiplier
        uses_dry = (self._model_config.dry_multiplier if multiplier is None else multiplier) > 0
        has_grammar = form is not None and bool(form.tools or form.response_format)
        return has_grammar or (uses_dry and submit.task == "generate")

    @torch.inference_mode(False)  # other threads write to what is made here: they look ahead
    def prepare(self, submit: Submit, arrival: float) -> ReadyRequest:
        """Check a request and make it ready.

        Args:
            submit: the request.
            arrival: when it came, in seconds.

        Raises:
            SeedOssError: it asks for what is not allowed or not there; the message says which.
        """
        self._check(submit)
        if submit.task != "generate":
            task = self._prompt_tasks.of(submit, submit.prompt_ids)
            row = self._row(submit, 0, submit.prompt_ids, 0, task is not None and task.needs_all, arrival)
            return ReadyRequest(submit, (ReadyRow(row, prompt_task=task, adapter=submit.adapter),))
        config = submit.params.generation_config(self._model_config)
        self._check_ids(config)
        if config.do_sample and config.seed is None:
            config.seed = secrets.randbits(63)
        max_new = self._max_new_tokens(submit, config)
        turn = None if submit.form is None else self._turn(submit, submit.form, config, max_new)
        prompt_ids = submit.prompt_ids if turn is None else tuple(turn.input_ids[0].tolist())
        suffix = prompt_ids[len(submit.prompt_ids) :]
        config.max_new_tokens = max_new = self._within(prompt_ids, max_new)
        rows = [self._ready_row(submit, choice, prompt_ids, config, turn, arrival) for choice in range(submit.params.n)]
        return ReadyRequest(submit, tuple(rows), suffix, max_new)

    def _check(self, submit: Submit) -> None:
        served = self._served
        if submit.task not in served.tasks:
            raise InputError(f"task is {submit.task!r}; this model serves {', '.join(sorted(served.tasks))}")
        if submit.adapter is not None and submit.adapter not in served.adapters:
            raise InputError("adapter names none that is loaded; see the list of models")
        if not submit.prompt_ids:
            raise InputError("prompt is empty; give at least one token")
        wrong = next((one for one in submit.prompt_ids if not 0 <= one < served.vocab_size), None)
        if wrong is not None:
            raise InputError(f"prompt has token {wrong}; allowed are 0 to {served.vocab_size - 1}")
        if submit.task != "generate" and len(submit.prompt_ids) > served.max_model_len:
            raise InputError(f"prompt has {len(submit.prompt_ids)} tokens; the limit is {served.max_model_len}")

    def _check_ids(self, config: GenerationConfig) -> None:
        named = {
            "logit_bias": list(config.logit_bias or ()),
            "bad_words_ids": [one for word in config.bad_words_ids or () for one in word],
            "sequence_bias": [one for ids, _ in config.sequence_bias or () for one in ids],
            "forced_bos_token_id": as_ids(config.forced_bos_token_id),
            "forced_eos_token_id": as_ids(config.forced_eos_token_id),
            "stop_token_ids": eos_ids(config),
        }
        for name, ids in named.items():
            if max(ids, default=0) >= self._served.vocab_size:
                raise InputError(f"{name} names token {max(ids)}; allowed are 0 to {self._served.vocab_size - 1}")

    def _max_new_tokens(self, submit: Submit, config: GenerationConfig) -> int:
        """What is asked for, or what the context has room for."""
        room = self._served.max_model_len - len(submit.prompt_ids)
        wanted = config.max_new_tokens
        if room < 1 or (wanted is not None and wanted > room):
            asked = "" if wanted is None else f" and max_tokens is {wanted}"
            raise InputError(
                f"prompt has {len(submit.prompt_ids)} tokens{asked}; both together may be {self._served.max_model_len}"
            )
        return room if wanted is None else wanted

    def _within(self, prompt_ids: Sequence[int], max_new: int) -> int:
        """Most new tokens behind a prompt that has become longer."""
        room = self._served.max_model_len - len(prompt_ids)
        if room < 1:
            raise InputError(f"prompt has {len(prompt_ids)} tokens; the limit is {self._served.max_model_len}")
        return min(max_new, room)

    def _turn(self, submit: Submit, form: AnswerForm, config: GenerationConfig, max_new: int) -> ChatTurn:
        if self._tokenizer is None:
            raise InputError("this model has no tokenizer; send prompts as token ids")
        return steered_turn(
            self._tokenizer,
            submit.prompt_ids,
            ThinkingBudget(form.thinking_budget, form.budget_mode),  # type: ignore[arg-type]
            tools=form.tools,
            tool_choice=form.tool_choice,
            response_format=form.response_format,
            parallel_tool_calls=form.parallel_tool_calls,
            max_new_tokens=max_new,
            vocab_size=self._served.vocab_size,
            end_token_ids=eos_ids(config),
            loop_guard=LoopGuard() if form.loop_guard else None,
        )

    def _ready_row(
        self,
        submit: Submit,
        choice: int,
        prompt_ids: tuple[int, ...],
        config: GenerationConfig,
        turn: ChatTurn | None,
        arrival: float,
    ) -> ReadyRow:
        ends = frozenset(eos_ids(config))
        controls = [] if turn is None else [one.with_ends(ends) for one in turn.row_controls]
        task = self._prompt_tasks.of(submit, prompt_ids) if choice == 0 else None
        row = self._row(submit, choice, prompt_ids, config.max_new_tokens or 0, task is not None, arrival)
        return ReadyRow(
            row=replace(row, num_draft_tokens=config.prompt_lookup_num_tokens or 0),
            generated=GeneratedRow(prompt_ids, choice, config, controls, self._tokenizer, self._breakers_of(config)),
            prompt_task=task,
            meter=None if turn is None else ReasoningMeter(turn),
            stop_token_ids=frozenset(submit.params.stop_token_ids or ()),
            adapter=submit.adapter,
        )

    def _breakers_of(self, config: GenerationConfig) -> DryBreakers | None:
        if config.dry_multiplier <= 0:
            return None
        given = config.dry_sequence_breakers
        return self._breakers(tuple(DEFAULT_BREAKERS if given is None else given))

    def _row(
        self,
        submit: Submit,
        choice: int,
        prompt_ids: tuple[int, ...],
        max_new: int,
        needs_all: bool,
        arrival: float,
    ) -> NewRow:
        adapter = submit.adapter
        salt = b"" if adapter is None else self._served.adapters[adapter]
        variant = self._served.length_variant(len(prompt_ids) + max_new)
        return NewRow(
            key=RowKey(submit.request_id, choice),
            prompt_ids=prompt_ids,
            max_new_tokens=max_new,
            priority=submit.priority,
            namespace=submit.namespace.encode(),
            cache_salt=salt + variant.to_bytes(8, "little") if variant else salt,
            wants_prompt_logits=needs_all,
            arrival=arrival,
        )
