"""Whether tokens are guessed ahead, and by what."""

from dataclasses import replace
from typing import Any

import torch

from seed_oss.cache import DynamicCache
from seed_oss.config import GenerationConfig, SeedOssConfig
from seed_oss.errors import InputError
from seed_oss.generation.draft_model import DraftModel
from seed_oss.generation.drafting import Drafter
from seed_oss.generation.model import CausalModel
from seed_oss.generation.processors import LogitsProcessorList
from seed_oss.generation.prompt import Prompt
from seed_oss.generation.prompt_lookup import PromptLookup
from seed_oss.generation.runner import ForwardOptions, ModelRunner, Runner
from seed_oss.generation.sampling import Chooser
from seed_oss.generation.speculative_runner import SpeculativeRunner
from seed_oss.generation.steering import Steering

MATCHING_NGRAM_SIZE = 2


def is_speculative(config: GenerationConfig, assistant: Any) -> bool:
    """Whether the settings ask for guesses."""
    return assistant is not None or config.prompt_lookup_num_tokens is not None


def check_speculation(model: CausalModel, config: GenerationConfig, assistant: Any) -> None:
    """Check that guesses can be verified.

    Raises:
        InputError: something that goes with neither prompt lookup nor an assistant model, or both of these.
    """
    name = "prompt_lookup_num_tokens" if assistant is None else "assistant_model"
    if assistant is not None and config.prompt_lookup_num_tokens is not None:
        raise InputError("assistant_model and prompt_lookup_num_tokens are both given; give one of them")
    if config.num_beams > 1:
        raise InputError(f"{name} and num_beams={config.num_beams} are both given; beams are not guessed: give one")
    if not config.use_cache:
        raise InputError(f"{name} is given and use_cache is False; guesses are verified with a cache: leave it on")
    for output in ("output_attentions", "output_hidden_states"):
        if config.return_dict_in_generate and getattr(config, output):
            raise InputError(f"{name} and {output} are both given, and no forward is a single step; give one of them")
    rope_type = model.config.rope_parameters["rope_type"]
    if rope_type in ("dynamic", "longrope"):
        raise InputError(f"{name} is given, and rope_type {rope_type!r} depends on the length of a forward; remove it")


def make_speculative_runner(runner: Runner, drafter: Drafter, steering: Steering, max_length: int) -> SpeculativeRunner:
    """The runner that verifies guesses.

    Raises:
        InputError: the model is run by an adapter.
    """
    if not isinstance(runner, ModelRunner):
        raise InputError("guessed tokens cannot be verified through an adapter with virtual tokens; call it without")
    return SpeculativeRunner(runner, drafter, steering, max_length)


def prompt_lookup(config: GenerationConfig, full: Prompt) -> PromptLookup:
    """The drafter for `prompt_lookup_num_tokens`."""
    assert config.prompt_lookup_num_tokens is not None
    size = MATCHING_NGRAM_SIZE if config.max_matching_ngram_size is None else config.max_matching_ngram_size
    return PromptLookup(full.rows(), full.input_ids.shape[1], config.prompt_lookup_num_tokens, size)


def draft_model(
    assistant: Any,
    model: CausalModel,
    config: GenerationConfig,
    prompt: Prompt,
    max_new: int,
    choose: Chooser,
    processors: LogitsProcessorList,
) -> DraftModel:
    """The drafter for `assistant_model`.

    Args:
        assistant: what the user gave.
        model: the large model.
        config: the settings; what they leave open of the assistant comes from its own.
        prompt: not yet repeated.
        max_new: most new tokens.
        choose: picks tokens by (seed, row, token index) alone.
        processors: change the scores.

    Raises:
        InputError: no causal model, or one with another vocabulary or on another device, or a prompt it cannot run.
    """
    _check_assistant(assistant, model)
    if prompt.inputs_embeds is not None or prompt.input_ids.shape[1] != prompt.total_len:
        raise InputError("assistant_model needs the whole prompt as input_ids, which it runs itself; give it so")
    own: GenerationConfig = assistant.generation_config or GenerationConfig()
    num_tokens = _set_in(config, own, "num_assistant_tokens").num_assistant_tokens
    threshold = _set_in(config, own, "assistant_confidence_threshold").assistant_confidence_threshold
    options = ForwardOptions(torch.iinfo(torch.int64).max, 1, {})
    cache = DynamicCache(config=assistant.config)
    runner = ModelRunner(assistant, _from_start(prompt), cache, options, max_new)
    repeats, columns = config.num_return_sequences, prompt.input_ids.shape[1]
    return DraftModel(runner, repeats, columns, choose, processors, num_tokens, threshold)


def _from_start(prompt: Prompt) -> Prompt:
    """The same prompt without a cache."""
    if prompt.past is None:
        return prompt
    mask, positions = prompt.attention_mask, None
    if mask is not None:
        positions = (mask.long().cumsum(-1) - 1).masked_fill(~mask, 0)
    return replace(prompt, position_ids=positions, past=None, past_len=0, num_new=prompt.input_ids.shape[1])


def _check_assistant(assistant: Any, model: CausalModel) -> None:
    if not isinstance(getattr(assistant, "config", None), SeedOssConfig):
        raise InputError(f"assistant_model is a {type(assistant).__name__}; it must be a causal language model")
    if assistant.config.vocab_size != model.config.vocab_size:
        raise InputError(
            f"assistant_model has a vocabulary of {assistant.config.vocab_size} tokens and the model one of "
            f"{model.config.vocab_size}; they must share one"
        )
    if assistant.device != model.device:
        raise InputError(f"assistant_model is on {assistant.device} and the model on {model.device}; move one")


def _set_in(config: GenerationConfig, own: GenerationConfig, name: str) -> GenerationConfig:
    """The config that counts for a field: the call's, unless only the assistant's own sets it."""
    return own if own.is_set(name) and not config.is_set(name) else config
