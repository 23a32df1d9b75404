"""LLM: many prompts through one model, in this process."""

import itertools
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from seed_oss.chat.tokenizer import SeedOssTokenizer
from seed_oss.config.sampling import SamplingParams
from seed_oss.engine.answers import Answers, score_of, token_vectors_of, vector_of
from seed_oss.engine.asks import Adapters, Asks, Prompt, adapters_of, as_prompts, chat_ask, for_each, lora_texts
from seed_oss.engine.build import LoadedModel, build_core, load
from seed_oss.engine.core import EngineCore
from seed_oss.engine.gathered import Gathered
from seed_oss.engine.messages import AnswerForm, Submit
from seed_oss.engine.outputs import ChatOutput, RequestOutput, Score, TokenVectors, Vector
from seed_oss.engine.spec import EngineSpec

_FOR_EVER_S = float(2**31)
_AHEAD_S = 0.05  # nothing arrives while a list of prompts is answered, and nobody reads a part of an answer
_NO_BOUND = 2**31 - 1


class LLM:
    """A model that answers many prompts at once, with continuous batching and a cache of prompts.

    Args:
        model: a folder, a GGUF file, a hub id, "demo", or a model that is loaded already.
        tokenizer: of a model that is loaded already; else that of the files is taken.
        quantization: scheme that the weights are brought into while they are loaded, such as "int4".
        dtype: of the weights; "auto" is the one they are stored in.
        device: "auto", "cpu", "cuda", ...
        threads: CPU threads; None for one per core.
        max_num_seqs: rows that run at the same time.
        max_model_len: most tokens of a prompt and its answer; None for what model and memory allow.
        max_num_batched_tokens: most tokens of one step.
        kv_cache_memory: bytes of keys and values at most; None for what `max_num_seqs` rows can use, if it is free.
        kv_cache_dtype: "auto", "float32", "bfloat16" or "int8".
        cache_dir: folder for cached prompts that outlive the process, or None; `close` writes what is left.
        cache_dir_bytes: most bytes that it may take.
        revision: of a hub model.
        lora: folder of each adapter by the name that `adapter` of the methods chooses it by.

    Raises:
        ConfigError: settings that do not go with the model or the memory; the message says what would fit.
        SeedOssError: the model cannot be had or used.
    """

    def __init__(
        self,
        model: Any,
        *,
        tokenizer: SeedOssTokenizer | None = None,
        quantization: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        max_num_seqs: int = 16,
        max_model_len: int | None = None,
        max_num_batched_tokens: int | None = None,
        kv_cache_memory: int | None = None,
        kv_cache_dtype: str = "auto",
        cache_dir: str | None = None,
        cache_dir_bytes: int = 8 * 2**30,
        revision: str | None = None,
        lora: Mapping[str, str | Path] | None = None,
    ) -> None:
        is_loaded = hasattr(model, "parameters")
        spec = EngineSpec(
            model="(loaded)" if is_loaded else str(model),
            revision=revision,
            dtype=dtype,
            device=device,
            quantization=quantization,
            threads=threads,
            max_num_seqs=max_num_seqs,
            max_model_len=max_model_len,
            max_num_batched_tokens=max_num_batched_tokens,
            kv_cache_memory=kv_cache_memory,
            kv_cache_dtype=kv_cache_dtype,
            cache_dir=cache_dir,
            cache_dir_bytes=cache_dir_bytes,
            lora=lora_texts(lora),
            max_num_waiting=_NO_BOUND,  # more than a few are never handed in
            max_num_queued_tokens=_NO_BOUND,
            queue_s=_FOR_EVER_S,  # whoever hands in a list waits for all of it
            no_progress_s=_FOR_EVER_S,  # so do rows that gave their blocks back
            ahead_s=_AHEAD_S,
            stream_interval_s=_AHEAD_S,  # there is no stream; it bounds the other one
        )
        loaded = LoadedModel(model, tokenizer) if is_loaded else load(spec)
        tokenizer = tokenizer if tokenizer is not None else loaded.tokenizer
        generation = getattr(loaded.model, "generation_config", None)
        self._asks, self._answers = Asks(tokenizer, generation), Answers(tokenizer)
        self._core: EngineCore = build_core(spec, loaded)
        self._numbers = itertools.count()

    @property
    def tokenizer(self) -> SeedOssTokenizer:
        """Of the model.

        Raises:
            TokenizerError: it has none.
        """
        return self._asks.tokenizer

    @property
    def core(self) -> EngineCore:
        """What runs the requests."""
        return self._core

    def close(self) -> None:
        """Write what goes to `cache_dir`; without it nothing needs to be closed."""
        while self._core.has_work:  # blocks on their way to the disk
            self._core.step()
        self._core.close()

    def __enter__(self) -> "LLM":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        show_progress: bool = True,
        adapter: Adapters = None,
    ) -> list[RequestOutput]:
        """Continue prompts.

        Args:
            prompts: a text or token ids, or a list of them.
            sampling_params: for all prompts, or one for each; SamplingParams() if None.
            show_progress: a bar on a terminal.
            adapter: name of an adapter for all prompts, or a list with one or None for each.

        Returns:
            One output for each prompt, in order.

        Raises:
            InputError: a prompt or a setting that cannot be; what is still running is given up then.
            EngineError: the engine failed on one of them.
        """
        texts = as_prompts(prompts)
        params, names = for_each(sampling_params, len(texts)), adapters_of(adapter, len(texts))
        ids = [self._asks.encode(one) for one in texts]
        submits = [self._submit(*one) for one in zip(ids, params, names, strict=True)]
        found = self._run(submits, show_progress)
        return [self._answers.output(text, one) for text, one in zip(texts, found, strict=True)]

    def chat(
        self,
        conversations: Sequence[Any],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: Any = None,
        response_format: Any = None,
        parallel_tool_calls: bool = True,
        thinking_budget: Any = None,
        loop_guard: bool = False,
        cache_turns: bool = True,
        reuse_reasoning: bool = False,
        show_progress: bool = True,
        adapter: Adapters = None,
    ) -> list[ChatOutput]:
        """Answer conversations.

        Args:
            conversations: messages, or a list of such lists.
            sampling_params: for all conversations, or one for each.
            tools, tool_choice, response_format, parallel_tool_calls, thinking_budget: see `SeedOssForCausalLM.chat`.
            loop_guard: end thinking or an answer that repeats itself.
            cache_turns: an answer of the history that was generated here, after just what stands before it, stands in
                the prompt as it was generated, so that the cache knows it; and this answer is remembered.
            reuse_reasoning: that holds, too, where the history leaves out the answer's reasoning, which then stays in
                the prompt.
            show_progress: a bar on a terminal.
            adapter: name of an adapter for all conversations, or a list with one or None for each.

        Returns:
            One output for each conversation, in order; `turns` says what became of each answer of its history.

        Raises:
            InputError, TemplateError: a conversation or a setting that cannot be; what still runs is given up then.
            EngineError: the engine failed on one of them.
        """
        many = conversations if conversations and isinstance(conversations[0], list | tuple) else [conversations]
        form = (thinking_budget, tools, tool_choice, response_format, parallel_tool_calls, loop_guard)
        ask = chat_ask(*form, cache_turns, reuse_reasoning)
        params, names = for_each(sampling_params, len(many)), adapters_of(adapter, len(many))
        prompts = [self._asks.chat(one, ask, name) for one, name in zip(many, names, strict=True)]
        ids = [one.ids for one in prompts]
        submits = [self._submit(*one, ask.form) for one in zip(ids, params, names, strict=True)]
        found = self._run(submits, show_progress)
        for one in found:
            self._asks.remember(one, ask)
        both = zip(found, prompts, strict=True)
        return [self._answers.chat_output(one, tools, prompt.turns) for one, prompt in both]

    def embed(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        pooling: str = "last",
        normalize: bool = True,
        show_progress: bool = True,
        adapter: str | None = None,
    ) -> list[Vector]:
        """A vector for each prompt.

        Args:
            prompts: a text or token ids, or a list of them.
            pooling: "last" takes the hidden state of the last token, "mean" the mean of all.
            normalize: give vectors the length 1.
            show_progress: a bar on a terminal.
            adapter: name of an adapter, or None.
        """
        options = {"pooling": pooling, "normalize": normalize}
        found = self._compute(prompts, "embed", show_progress, adapter, options)
        return [vector_of(one) for one in found]

    def score(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        show_progress: bool = True,
        adapter: str | None = None,
    ) -> list[Score]:
        """How probable texts are: the log-probabilities of their tokens, without the first."""
        return [score_of(one) for one in self._compute(prompts, "score", show_progress, adapter)]

    def classify(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        show_progress: bool = True,
        adapter: str | None = None,
    ) -> list[Vector]:
        """Scores of the labels, for a checkpoint with a head for sequence classification."""
        found = self._compute(prompts, "classify", show_progress, adapter)
        return [vector_of(one) for one in found]

    def classify_tokens(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        show_progress: bool = True,
        adapter: str | None = None,
    ) -> list[TokenVectors]:
        """Scores of the labels of each token, for a checkpoint with a head for token classification."""
        found = self._compute(prompts, "token_classify", show_progress, adapter)
        return [token_vectors_of(one) for one in found]

    def find_answers(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        show_progress: bool = True,
        adapter: str | None = None,
    ) -> list[TokenVectors]:
        """Scores of each token as start and end of the answer, for a checkpoint with a question-answering head."""
        found = self._compute(prompts, "question_answer", show_progress, adapter)
        return [token_vectors_of(one) for one in found]

    def _compute(
        self,
        prompts: Prompt | Sequence[Prompt],
        task: Any,
        show_progress: bool,
        adapter: str | None,
        options: Mapping[str, Any] | None = None,
    ) -> list[Gathered]:
        ids = [self._asks.encode(one) for one in as_prompts(prompts)]
        made = [self._submit(one, SamplingParams(), adapter) for one in ids]
        return self._run([replace(one, task=task, options=options or {}) for one in made], show_progress)

    def _submit(
        self, ids: tuple[int, ...], params: SamplingParams, adapter: str | None, form: AnswerForm | None = None
    ) -> Submit:
        return Submit(str(next(self._numbers)), ids, params, form=form, adapter=adapter)

    def _run(self, submits: Sequence[Submit], show_progress: bool) -> list[Gathered]:
        """Run requests to their ends; if one cannot be taken or fails, none goes on."""
        gathered = {one.request_id: Gathered(one) for one in submits}
        waiting = deque(submits)
        running: dict[str, Gathered] = {}
        try:
            with _bar(len(submits), show_progress) as advance, self._core.alone():
                while waiting or running:
                    self._hand_in(waiting, running, gathered)
                    for event in self._core.step():
                        one = running.get(getattr(event, "request_id", ""))
                        if one is not None and one.take(event):
                            del running[one.submit.request_id]
                            advance()
        except BaseException:
            self._leave(running)
            raise
        return list(gathered.values())

    def _hand_in(self, waiting: deque[Submit], running: dict[str, Gathered], gathered: Mapping[str, Gathered]) -> None:
        """As many as the engine runs, and as many again."""
        room = 2 * self._core.ready().max_num_seqs - sum(one.num_choices for one in running.values())
        while waiting and (not running or gathered[waiting[0].request_id].num_choices <= room):
            submit = waiting.popleft()
            running[submit.request_id] = gathered[submit.request_id]
            room -= gathered[submit.request_id].num_choices
            self._core.submit(submit)

    def _leave(self, running: Mapping[str, Gathered]) -> None:
        for request_id in running:
            self._core.abort(request_id)
        while self._core.has_work:
            self._core.step()


@contextmanager
def _bar(total: int, enabled: bool) -> Iterator[Callable[[], None]]:
    """A bar of requests on stderr, if that is a terminal; gives what to call for each that is done."""
    if not enabled or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("Prompts", total=total)
        yield lambda: progress.advance(task)
