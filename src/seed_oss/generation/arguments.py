"""From the keyword arguments of `generate` to settings and model inputs."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from seed_oss.chat.budget import SPELLED
from seed_oss.config import GenerationConfig
from seed_oss.errors import InputError

_NO_CODE = "no code from a model folder is ever run"
_REFUSED = {
    "assistant_tokenizer": "an assistant_model must have the model's own vocabulary; remove the argument",
    "custom_generate": _NO_CODE,
    "negative_prompt_ids": "guidance is not available; give a logits_processor that does it",
    "negative_prompt_attention_mask": "guidance is not available; give a logits_processor that does it",
    "prefix_allowed_tokens_fn": "give a logits_processor that does it",
    "synced_gpus": "one process generates alone",
    "trust_remote_code": _NO_CODE,
}
_NAMED = ("logits_processor", "stopping_criteria", "streamer", "tokenizer", "row_controls", "assistant_model")
_OTHER_NAMES = {  # of OpenAI's API
    "stop": "stop_strings",
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "n": "num_return_sequences",
    "logprobs": "output_logprobs",
}
_WITHOUT_EFFECT = ("token_type_ids",)  # tokenizers hand them out, the model has no use for them


@dataclass(frozen=True)
class ModelInputs:
    """Arguments of `generate` that describe the prompt, as the user gave them."""

    input_ids: Any = None
    inputs_embeds: Any = None
    attention_mask: Any = None
    position_ids: Any = None
    past_key_values: Any = None
    logits_to_keep: Any = None


_INPUT_NAMES = tuple(field.name for field in fields(ModelInputs))


def resolve_arguments(
    defaults: GenerationConfig | None,
    inputs: Any,
    generation_config: GenerationConfig | None,
    kwargs: Mapping[str, Any],
) -> tuple[GenerationConfig, ModelInputs]:
    """Settle which value counts: keyword argument, then `generation_config`, then the model's own, then the default.

    Args:
        defaults: the model's generation config.
        inputs: first argument of `generate`, another name for `input_ids`.
        generation_config: given by the user; not changed.
        kwargs: fields of the generation config and model inputs.

    Returns:
        A checked config of its own, and the model inputs.

    Raises:
        InputError: an argument that is not known, not available, or given twice.
        ConfigError: a setting of a wrong type or value, or one that is not available.
    """
    settings = {name: value for name, value in kwargs.items() if name not in _INPUT_NAMES}
    config = _resolve_config(defaults, generation_config, settings)
    given = {name: kwargs[name] for name in _INPUT_NAMES if name in kwargs}
    if inputs is not None:
        if given.get("input_ids") is not None:
            raise InputError("inputs and input_ids are both given, and mean the same; give one of them")
        given["input_ids"] = inputs
    return config, ModelInputs(**given)


def _resolve_config(
    defaults: GenerationConfig | None, given: GenerationConfig | None, settings: dict[str, Any]
) -> GenerationConfig:
    if given is not None and not isinstance(given, GenerationConfig):
        raise InputError(f"generation_config is a {type(given).__name__}; it must be a seed_oss.GenerationConfig")
    config = GenerationConfig(**given.to_diff_dict()) if given is not None else GenerationConfig()
    if defaults is not None:
        config.fill_from(defaults)
    if "top_k" in settings and settings["top_k"] is None:
        settings = {**settings, "top_k": 0}  # None means off, not the default of 50
    _check_unknown(config.update(**settings))
    config.validate()
    return config


def _check_unknown(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if name in _REFUSED and value is not None and value is not False:
            raise InputError(f"generate() got {name}: {_REFUSED[name]}")
    names = [name for name, value in given.items() if value is not None and name not in (*_REFUSED, *_WITHOUT_EFFECT)]
    if names:
        hints = "; ".join(f"{name!r}: {_hint(name)}" for name in names)
        raise InputError(f"these model_kwargs are not used by generate() or the model: {hints}")


def _hint(name: str) -> str:
    if name in _OTHER_NAMES:
        return f"did you mean {_OTHER_NAMES[name]}?"
    if name in SPELLED or name == "thinking_budget":
        return "a thinking budget is given to model.chat or apply_chat_template, as thinking_budget="
    known = [*GenerationConfig.FIELDS, *_INPUT_NAMES, *_NAMED]
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else "remove it"
