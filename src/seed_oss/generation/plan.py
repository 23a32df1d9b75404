"""Everything that `generate` decides before the model runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seed_oss.cache import Cache, DynamicCache, QuantizedCache, StaticCache
from seed_oss.config import GenerationConfig
from seed_oss.errors import CacheFullError, InputError
from seed_oss.generation.arguments import resolve_arguments
from seed_oss.generation.beams import BeamSettings, Picker, pick_best, sampling_picker
from seed_oss.generation.drafting import Drafter
from seed_oss.generation.graph_runner import GraphRunner, graphs_for, prefers_fixed_size
from seed_oss.generation.lengths import Lengths, settle_lengths
from seed_oss.generation.model import CausalModel
from seed_oss.generation.prepared import PreparedRunner, replaced_preparation
from seed_oss.generation.processors import LogitsProcessorList
from seed_oss.generation.prompt import Prompt, eos_ids, make_prompt
from seed_oss.generation.runner import ForwardOptions, ModelRunner, Runner
from seed_oss.generation.sampling import Chooser, choose_greedily, sampler
from seed_oss.generation.settings import make_criteria, make_processors
from seed_oss.generation.speculation import (
    check_speculation,
    draft_model,
    is_speculative,
    make_speculative_runner,
    prompt_lookup,
)
from seed_oss.generation.steering import Steering, controls_per_row
from seed_oss.generation.stopping import StoppingCriteriaList
from seed_oss.planning.chunks import WHOLE, default_chunk_len, runs_whole


@dataclass(frozen=True)
class CallArguments:
    """Arguments of one `generate` call beside the model and the streamer."""

    inputs: Any
    generation_config: GenerationConfig | None
    logits_processor: Any
    stopping_criteria: Any
    tokenizer: Any
    generator: torch.Generator | None
    kwargs: Mapping[str, Any]
    row_controls: Any = None
    assistant_model: CausalModel | None = None


@dataclass(frozen=True)
class RecordFlags:
    """What is returned beside the ids."""

    as_dict: bool
    scores: bool
    logits: bool
    attentions: bool
    hidden_states: bool
    top_logprobs: int | None  # None: no log-probabilities

    @property
    def any_of_steps(self) -> bool:
        """Whether something is kept of each step beside its tokens."""
        return self.scores or self.logits or self.attentions or self.hidden_states or self.top_logprobs is not None


@dataclass(frozen=True)
class GenerationPlan:
    """What the loop needs.

    Attributes:
        input_ids: int64 `[rows, length]`, repeated for `num_return_sequences`.
        max_new: most new tokens.
        runner: runs the model.
        repeats_after_prefill: how often to repeat each row once the prompt has run.
        processors: change the scores.
        choose: picks tokens.
        beams: what beam search is asked for; None without it.
        pick: picks the continuations of beams.
        steering: the row controls.
        criteria: decide who is done.
        pad_token_id: fills rows that are done; None lets them run on.
        record: what is returned.
        max_position_embeddings: of the model.
        warns_at: the number of generated tokens from which positions go beyond that.
        output_device: where the ids are returned.
    """

    input_ids: Tensor
    max_new: int
    runner: Runner
    repeats_after_prefill: int
    processors: LogitsProcessorList
    choose: Chooser
    beams: BeamSettings | None
    pick: Picker
    steering: Steering
    criteria: StoppingCriteriaList
    pad_token_id: int | None
    record: RecordFlags
    max_position_embeddings: int
    warns_at: int
    output_device: torch.device


def make_plan(model: CausalModel, call: CallArguments) -> GenerationPlan:
    """Check all arguments and decide.

    Raises:
        InputError: an argument that is unknown, or of a wrong shape, type, value or combination.
        ConfigError: a setting of a wrong value, or one that is not available.
        CacheFullError: a StaticCache is too small for the longest possible result.
    """
    config, given = resolve_arguments(model.generation_config, call.inputs, call.generation_config, call.kwargs)
    _settle_seed(config, call, model.device)
    prompt = make_prompt(model, given, config)
    record = _record_flags(config)
    repeats = max(config.num_beams, config.num_return_sequences)
    late = repeats if _repeats_late(config, prompt, record, repeats) else 1
    start = prompt.repeated(repeats // late)
    full = prompt.repeated(repeats)
    lengths = settle_lengths(config, prompt, model.config.max_position_embeddings)
    criteria = make_criteria(config, lengths, call.stopping_criteria, call.tokenizer)
    max_new = max(_length_limit(criteria, lengths.max_length) - prompt.input_ids.shape[1], 1)
    is_stepwise = _is_stepwise(model, config, call, record)
    cache = _make_cache(model, config, start, max_new, full.input_ids.shape[0], is_stepwise)
    options = _forward_options(model, config, record, given.logits_to_keep, cache, start.total_len)
    runner = _make_runner(model, start, cache, options, max_new, is_stepwise)
    steering = _make_steering(call.row_controls, config, full, max_new)
    choose = sampler(config.seed, call.generator) if config.do_sample else choose_greedily
    if is_speculative(config, call.assistant_model):
        check_speculation(model, config, call.assistant_model)
        drafter = _make_drafter(model, call, config, prompt, lengths, max_new, choose)
        runner = make_speculative_runner(runner, drafter, steering, full.input_ids.shape[1] + max_new)
    first_beyond = max(model.config.max_position_embeddings - prompt.total_len + 1, 0)
    return GenerationPlan(
        input_ids=full.input_ids,
        max_new=max_new,
        runner=runner,
        repeats_after_prefill=late,
        processors=make_processors(
            config, full, lengths, call.logits_processor, tokenizer=call.tokenizer, generator=call.generator
        ),
        choose=choose,
        beams=_beam_settings(config, record, max_new) if config.num_beams > 1 else None,
        pick=sampling_picker(config.seed, call.generator, config.num_beams) if config.do_sample else pick_best,
        steering=steering,
        criteria=criteria,
        pad_token_id=_pad_token_id(config),
        record=record,
        max_position_embeddings=model.config.max_position_embeddings,
        warns_at=first_beyond,
        output_device=_output_device(given.input_ids, model),
    )


def _record_flags(config: GenerationConfig) -> RecordFlags:
    as_dict = config.return_dict_in_generate
    return RecordFlags(
        as_dict=as_dict,
        scores=as_dict and config.output_scores,
        logits=as_dict and config.output_logits,
        attentions=as_dict and config.output_attentions,
        hidden_states=as_dict and config.output_hidden_states,
        top_logprobs=(config.top_logprobs or 0) if as_dict and config.output_logprobs else None,
    )


def _cached_rows(cache: Cache | None) -> int | None:
    """Batch size of a cache that has been written to."""
    if cache is None or len(cache) == 0 or cache[0][0].dim() != 4:
        return None
    return cache[0][0].shape[0]


def _repeats_late(config: GenerationConfig, prompt: Prompt, record: RecordFlags, repeats: int) -> bool:
    """Whether the prompt runs once for all its rows; not where its own outputs are returned."""
    if not config.use_cache and prompt.inputs_embeds is None:
        return False
    cached = _cached_rows(prompt.past)
    already = cached is not None and cached == prompt.input_ids.shape[0] * repeats
    return not (record.attentions or record.hidden_states or already)


def _length_limit(criteria: StoppingCriteriaList, default: int) -> int:
    limit = criteria.max_length
    return default if limit is None else limit


def _is_stepwise(model: CausalModel, config: GenerationConfig, call: CallArguments, record: RecordFlags) -> bool:
    """Whether each step runs one more token of every row, in order, so that all steps are alike."""
    is_plain = config.num_beams == 1 and not is_speculative(config, call.assistant_model)
    return is_plain and not record.attentions and not record.hidden_states and replaced_preparation(model) is None


def _make_cache(
    model: CausalModel, config: GenerationConfig, start: Prompt, max_new: int, rows: int, is_stepwise: bool
) -> Cache | None:
    num_kept = start.total_len + max_new - 1  # the last token is never run
    if start.past is not None:
        return _check_cache(start, config, num_kept, rows)
    if not config.use_cache and start.inputs_embeds is None:
        return None
    if config.cache_implementation == "static":
        return StaticCache(model.config, max_cache_len=num_kept)
    if config.cache_implementation == "quantized":
        return QuantizedCache(model.config)
    is_ours = config.cache_implementation is None and not config.return_dict_in_generate  # the caller never gets it
    if is_ours and is_stepwise and prefers_fixed_size(model, rows, num_kept):
        return StaticCache(model.config, max_cache_len=num_kept)
    return DynamicCache(config=model.config)


def _check_cache(start: Prompt, config: GenerationConfig, num_kept: int, rows: int) -> Cache:
    cache = start.past
    assert cache is not None
    if config.cache_implementation is not None:
        raise InputError(
            f"past_key_values and cache_implementation={config.cache_implementation!r} are both given; the first is a "
            "cache, the second asks for another one; give one of them"
        )
    if not config.use_cache:
        raise InputError("past_key_values is given and use_cache is False; give one of them")
    cached, given = _cached_rows(cache), start.input_ids.shape[0]
    if cached is not None and cached != given:
        raise InputError(f"the cache has {cached} rows and the prompt {given} (results: {rows}); they must be equal")
    room = cache.get_max_cache_shape()
    if 0 <= room < num_kept:
        raise CacheFullError(
            f"the result may take {num_kept} cached tokens and the cache has room for {room}; make it longer, or "
            "lower max_new_tokens"
        )
    return cache


def _make_runner(
    model: CausalModel,
    start: Prompt,
    cache: Cache | None,
    options: ForwardOptions,
    max_new: int,
    is_stepwise: bool,
) -> Runner:
    prepare = replaced_preparation(model)
    if prepare is None:
        runner = ModelRunner(model, start, cache, options, max_new)
        make_graph = graphs_for(model, cache, options.outputs) if is_stepwise else None
        return runner if make_graph is None else GraphRunner(runner, make_graph, max_new)
    if start.past is not None or not isinstance(cache, DynamicCache):
        raise InputError(
            "an adapter puts virtual tokens before the prompt, which needs a cache of its own; call generate() without "
            "past_key_values, cache_implementation and use_cache=False"
        )
    return PreparedRunner(model, prepare, start, options, max_new)


def _forward_options(
    model: CausalModel,
    config: GenerationConfig,
    record: RecordFlags,
    logits_to_keep: Any,
    cache: Cache | None,
    total_len: int,
) -> ForwardOptions:
    keep = 1 if logits_to_keep is None else logits_to_keep
    if not isinstance(keep, int) or isinstance(keep, bool) or keep < 0:
        raise InputError(f"logits_to_keep is {keep!r}; generate() takes an integer >= 0")
    chunk_len = config.prefill_chunk_size
    if chunk_len is not None and cache is None:
        raise InputError(f"prefill_chunk_size is {chunk_len} and use_cache is False; chunks need a cache")
    if chunk_len is None:
        rope_type = model.config.rope_parameters["rope_type"]
        whole = cache is None or record.attentions or record.hidden_states or runs_whole(rope_type)
        chunk_len = WHOLE if whole else default_chunk_len(total_len)
    outputs = {"output_attentions": record.attentions, "output_hidden_states": record.hidden_states}
    return ForwardOptions(chunk_len, keep, {name: True for name, wanted in outputs.items() if wanted})


def _make_drafter(
    model: CausalModel,
    call: CallArguments,
    config: GenerationConfig,
    prompt: Prompt,
    lengths: Lengths,
    max_new: int,
    choose: Chooser,
) -> Drafter:
    full = prompt.repeated(config.num_return_sequences)
    if call.assistant_model is None:
        return prompt_lookup(config, full)
    # Without the user's own processors, which may remember what they saw.
    processors = make_processors(config, full, lengths, None, tokenizer=call.tokenizer)
    return draft_model(call.assistant_model, model, config, prompt, max_new, choose, processors)


def _beam_settings(config: GenerationConfig, record: RecordFlags, max_new: int) -> BeamSettings:
    if record.top_logprobs is not None:
        raise InputError(
            f"output_logprobs is set and num_beams is {config.num_beams}; beams have output_scores instead"
        )
    pad = _pad_token_id(config)
    return BeamSettings(
        num_beams=config.num_beams,
        num_returned=config.num_return_sequences,
        num_candidates=max(2, 1 + len(eos_ids(config))) * config.num_beams,
        length_penalty=config.length_penalty,
        early_stopping=config.early_stopping,
        fill=-1 if pad is None else pad,
        max_new=max_new,
    )


def _settle_seed(config: GenerationConfig, call: CallArguments, device: torch.device) -> None:
    """Check where random numbers come from; an assistant draws with the same noise, so a stream becomes one seed."""
    generator: Any = call.generator
    if generator is not None:
        if not isinstance(generator, torch.Generator):
            raise InputError(f"generator is a {type(generator).__name__}; it must be a torch.Generator")
        if config.seed is not None:
            raise InputError("seed and generator are both given; give one of them")
        if generator.device.type != device.type:
            raise InputError(f"the generator is on {generator.device} and the model on {device}; they must be on one")
    if call.assistant_model is not None and config.do_sample and config.seed is None:
        config.seed = int(torch.randint(2**62, (), generator=generator, device=device))


def _make_steering(given: Any, config: GenerationConfig, full: Prompt, max_new: int) -> Steering:
    repeats, num_rows = max(config.num_beams, config.num_return_sequences), full.input_ids.shape[0]
    controls = controls_per_row(given, num_rows // repeats, repeats)
    if not any(controls):
        return Steering([], [], max_new)
    if config.num_beams > 1:
        raise InputError(
            f"row_controls are given and num_beams is {config.num_beams}; a control follows one row token by token: "
            "set num_beams=1, and num_return_sequences with do_sample=True for several results"
        )
    if num_rows > 1 and _pad_token_id(config) is None:
        raise InputError(f"row_controls of {num_rows} rows need pad_token_id, to fill rows that end early; set it")
    ends = frozenset(eos_ids(config))
    controls = [tuple(one.with_ends(ends) for one in row) for row in controls]
    return Steering(controls, full.rows(), max_new)


def _pad_token_id(config: GenerationConfig) -> int | None:
    if config.pad_token_id is not None:
        return config.pad_token_id
    eos = eos_ids(config)
    return eos[0] if eos else None


def _output_device(input_ids: Any, model: CausalModel) -> torch.device:
    return input_ids.device if isinstance(input_ids, Tensor) else model.device
