"""GenerationConfig: how text is continued, as in `generation_config.json`."""

import difflib
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from seed_oss.config.base import check_keys, named
from seed_oss.config.fields import (
    Field,
    boolean,
    choice,
    either,
    integer,
    json_copy,
    list_of,
    number,
    optional,
    refuse,
    shown,
    text,
)
from seed_oss.config.model import SeedOssConfig
from seed_oss.config.stored import StoredConfig
from seed_oss.config.token_settings import (
    read_breakers,
    read_logit_bias,
    read_sequence_bias,
    read_words,
    token_id,
    token_ids,
)
from seed_oss.config.unimplemented import UNIMPLEMENTED, is_used
from seed_oss.errors import ConfigError

MAX_SEED = 2**64 - 1
MAX_DRAFT = 1024
MAX_BEAMS = 1024
MAX_LENGTH_PENALTY = 50.0
MAX_NGRAM = 64

_TOKEN_ID = optional(integer(0))


def _read_early_stopping(field: str, value: Any) -> bool | str:
    if value != "never" and not isinstance(value, bool):
        refuse(field, value, "true, false or 'never'")
    return value


WITHOUT_EFFECT = {
    "assistant_lookbehind",
    "decoder_start_token_id",
    "generation_kwargs",
    "num_assistant_tokens_schedule",
    "target_lookbehind",
}
"""Keys that transformers writes and that change no result; kept and written back without a word."""


def _warn_of_unknown(keys: set[str]) -> None:
    if not keys:
        return
    near = {key: difflib.get_close_matches(key[:64], _FIELDS, n=1) for key in sorted(keys)[:20]}
    hints = [f"{shown(key)}: did you mean {match[0]}?" for key, match in near.items() if match]
    warnings.warn(
        f"generation config has keys that seed_oss does not know: {named(keys)}. They are kept and written back, and "
        f"change nothing here{'; ' if hints else ''}{' '.join(hints)}",
        stacklevel=3,
    )


_FIELDS = {
    "max_length": Field(20, integer(1)),
    "max_new_tokens": Field(None, optional(integer(1))),
    "min_length": Field(0, integer(0)),
    "min_new_tokens": Field(None, optional(integer(0))),
    "max_time": Field(None, optional(number(0.0, above=True))),
    "stop_strings": Field(None, optional(either(text, list_of(text)))),
    "do_sample": Field(False, boolean),
    "num_beams": Field(1, integer(1, MAX_BEAMS)),
    "length_penalty": Field(1.0, number(-MAX_LENGTH_PENALTY, MAX_LENGTH_PENALTY)),
    "early_stopping": Field(False, _read_early_stopping),
    "use_cache": Field(True, boolean),
    "cache_implementation": Field(None, optional(choice("dynamic", "static", "quantized"))),
    "prefill_chunk_size": Field(None, optional(integer(1))),
    "temperature": Field(1.0, number(0.0)),
    "top_k": Field(50, integer(0)),
    "top_p": Field(1.0, number(0.0, 1.0)),
    "min_p": Field(None, optional(number(0.0, 1.0))),
    "typical_p": Field(1.0, number(0.0, 1.0, above=True)),
    "epsilon_cutoff": Field(0.0, number(0.0, 1.0)),
    "eta_cutoff": Field(0.0, number(0.0, 1.0)),
    "top_n_sigma": Field(0.0, number(0.0)),
    "xtc_probability": Field(0.0, number(0.0, 1.0)),
    "xtc_threshold": Field(0.1, number(0.0, 1.0)),
    "repetition_penalty": Field(1.0, number(0.0, above=True)),
    "frequency_penalty": Field(0.0, number(-2.0, 2.0)),
    "presence_penalty": Field(0.0, number(-2.0, 2.0)),
    "dry_multiplier": Field(0.0, number(0.0)),
    "dry_base": Field(1.75, number(1.0)),
    "dry_allowed_length": Field(2, integer(1)),
    "dry_sequence_breakers": Field(None, optional(read_breakers)),
    "dry_range": Field(0, integer(0)),
    "no_repeat_ngram_size": Field(0, integer(0)),
    "bad_words_ids": Field(None, optional(read_words)),
    "sequence_bias": Field(None, optional(read_sequence_bias)),
    "logit_bias": Field(None, optional(read_logit_bias)),
    "forced_bos_token_id": Field(None, _TOKEN_ID),
    "forced_eos_token_id": Field(None, optional(either(token_id, token_ids))),
    "suppress_tokens": Field(None, optional(token_ids)),
    "begin_suppress_tokens": Field(None, optional(token_ids)),
    "renormalize_logits": Field(False, boolean),
    "prompt_lookup_num_tokens": Field(None, optional(integer(1, MAX_DRAFT))),
    "max_matching_ngram_size": Field(None, optional(integer(1, MAX_NGRAM))),
    "num_assistant_tokens": Field(20, integer(1, MAX_DRAFT)),
    "assistant_confidence_threshold": Field(0.4, number(0.0, 1.0)),
    "seed": Field(None, optional(integer(0, MAX_SEED))),
    "num_return_sequences": Field(1, integer(1)),
    "output_attentions": Field(False, boolean),
    "output_hidden_states": Field(False, boolean),
    "output_scores": Field(False, boolean),
    "output_logits": Field(False, boolean),
    "output_logprobs": Field(False, boolean),
    "top_logprobs": Field(None, optional(integer(0))),
    "return_dict_in_generate": Field(False, boolean),
    "pad_token_id": Field(None, _TOKEN_ID),
    "bos_token_id": Field(None, _TOKEN_ID),
    "eos_token_id": Field(None, optional(either(integer(0), list_of(integer(0))))),
    "disable_compile": Field(False, boolean),
    "transformers_version": Field(None, optional(text)),
}


class GenerationConfig(StoredConfig):
    """Settings of `generate`; every field is a keyword argument and an attribute, checked when it is set.

    A field that is not set, or set to None, answers with its default and is left open for another config to fill
    (`fill_from`), as in transformers 5. Fields of transformers that this release does not implement are kept and
    written back, and refused by `validate`, which `generate` calls, when they would change the result.

    Args:
        max_length: longest result in tokens with the prompt (20); max_new_tokens wins over it.
        max_new_tokens: most tokens to add to the prompt.
        min_length: shortest result in tokens with the prompt (0); min_new_tokens wins over it.
        min_new_tokens: fewest tokens to add to the prompt.
        max_time: seconds after which no further token is started.
        stop_strings: a text or list of texts that end the result where they appear in it.
        do_sample: draw tokens at random (False: take the most likely one).
        num_beams: continuations kept side by side (1); more than one is beam search, with do_sample drawn at random.
        length_penalty: beams are ranked by log-probability divided by length to this power (1.0).
        early_stopping: True ends once num_beams results are found; False (the default) when the running beams are not
            better at their present length; "never" when they cannot become better.
        use_cache: keep keys and values of earlier tokens (True).
        cache_implementation: "dynamic" (the default; on CUDA a cache that nobody gets may have a fixed size, see
            docs/gpu.md), "static" or "quantized" (8 bits).
        prefill_chunk_size: most prompt tokens in one forward.
        temperature: divides the logits (1.0); above 0 where tokens are drawn.
        top_k: draw from this many most likely tokens (50); 0 switches it off.
        top_p: draw from the fewest tokens whose probabilities reach this sum (1.0), from 0 to 1.
        min_p: draw from tokens with at least this share of the largest probability, from 0 to 1.
        typical_p: draw from the tokens nearest to the expected information content, up to this probability (1.0).
        epsilon_cutoff, eta_cutoff: draw from tokens of at least this probability; for eta a lower one where the
            distribution is flat (0.0).
        top_n_sigma: draw from tokens whose score is within this many standard deviations of the best (0.0 is off).
            Ours, as are the xtc_* and dry_* fields, frequency_penalty, presence_penalty and logit_bias.
        xtc_probability, xtc_threshold: how often (0.0) all tokens of at least this probability (0.1) are left out but
            the least likely of them; never where this would leave out an end of sequence.
        repetition_penalty: makes tokens that appeared less likely if above 1 (1.0).
        frequency_penalty, presence_penalty: taken off the score of a token for each time it was generated, and once
            where it was generated at all (0.0), from -2 to 2.
        dry_multiplier, dry_base, dry_allowed_length: taken off tokens that continue a repetition of n tokens is
            multiplier * base ** (n - allowed_length), from that length on (0.0, 1.75, 2).
        dry_sequence_breakers: texts and token ids that no repetition goes across; without a value newline, colon,
            quotation mark and asterisk. Text needs `tokenizer=`.
        dry_range: how many tokens at the end DRY looks at (0 is all).
        no_repeat_ngram_size: no sequence of this many tokens comes twice (0 is off).
        bad_words_ids: lists of token ids that may not come.
        sequence_bias: list of [token ids, number added to the last one's score where the others are there].
        logit_bias: mapping from token ids to numbers from -100 to 100 added to their scores; at most 300.
        forced_bos_token_id: the first new token, where the prompt is one token.
        forced_eos_token_id: the last token where the longest length is reached; may be a list.
        suppress_tokens, begin_suppress_tokens: token ids that may not come, or not as the first new token.
        renormalize_logits: turn processed scores into log-probabilities (False).
        prompt_lookup_num_tokens: guess up to this many tokens ahead by copying what followed the newest tokens where
            they occurred before; max_matching_ngram_size: look for runs of up to this many tokens (2).
        num_assistant_tokens: guess up to this many tokens ahead with `assistant_model` (20);
            assistant_confidence_threshold: guess no further once a token had less than this probability (0.4).
        seed: of the random draws, so that they repeat; from 0 to 2**64 - 1. Ours, not in transformers.
        num_return_sequences: results per prompt (1); more than one needs do_sample.
        return_dict_in_generate: return an object with the sequences and what the output_* fields ask for.
        output_scores, output_logits, output_attentions, output_hidden_states: what that object holds.
        output_logprobs: that object holds the log-probabilities of the new tokens, as the model gave them before any
            logits processor; top_logprobs: and of this many most probable ones. Ours, not in transformers.
        pad_token_id, bos_token_id, eos_token_id: special token ids; eos may be a list.
        disable_compile: accepted; nothing compiles unless asked for.

    Raises:
        ConfigError: a value of a wrong type or outside its range.

    Source: transformers generation/configuration_utils.py for names and defaults.
    """

    FIELDS: ClassVar[Mapping[str, Field]] = _FIELDS
    file_name: ClassVar[str] = "generation_config.json"

    max_length: int
    max_new_tokens: int | None
    min_length: int
    min_new_tokens: int | None
    max_time: float | None
    stop_strings: str | list[str] | None
    do_sample: bool
    num_beams: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    use_cache: bool
    cache_implementation: Literal["dynamic", "static", "quantized"] | None
    prefill_chunk_size: int | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float | None
    typical_p: float
    epsilon_cutoff: float
    eta_cutoff: float
    top_n_sigma: float
    xtc_probability: float
    xtc_threshold: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_sequence_breakers: list[str | int] | None
    dry_range: int
    no_repeat_ngram_size: int
    bad_words_ids: list[list[int]] | None
    sequence_bias: list[list[Any]] | None
    logit_bias: dict[int, float] | None
    forced_bos_token_id: int | None
    forced_eos_token_id: int | list[int] | None
    suppress_tokens: list[int] | None
    begin_suppress_tokens: list[int] | None
    renormalize_logits: bool
    prompt_lookup_num_tokens: int | None
    max_matching_ngram_size: int | None
    num_assistant_tokens: int
    assistant_confidence_threshold: float
    seed: int | None
    num_return_sequences: int
    output_attentions: bool
    output_hidden_states: bool
    output_scores: bool
    output_logits: bool
    output_logprobs: bool
    top_logprobs: int | None
    return_dict_in_generate: bool
    pad_token_id: int | None
    bos_token_id: int | None
    eos_token_id: int | list[int] | None
    disable_compile: bool
    transformers_version: str | None

    def __init__(self, /, **fields: Any) -> None:
        self._extra = {}
        for key, value in check_keys("generation config", fields).items():
            if key in self.FIELDS:
                setattr(self, key, value)
            elif not key.startswith("_"):
                self._extra[key] = json_copy(key, value)
        _warn_of_unknown(self._extra.keys() - UNIMPLEMENTED.keys() - WITHOUT_EFFECT)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.FIELDS and value is None:
            vars(self).pop(name, None)
        else:
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        field = self.FIELDS.get(name)
        if field is not None:
            return field.default
        if name in UNIMPLEMENTED and name not in vars(self).get("_extra", {}):
            return None
        return super().__getattr__(name)

    def is_set(self, name: str) -> bool:
        """Whether the field or key was given a value (a field that was not answers with its default)."""
        return name in vars(self) or self._extra.get(name) is not None

    def fill_from(self, other: "GenerationConfig") -> None:
        """Take from `other` every field and key that is set there and not here."""
        for name in other.FIELDS:
            if other.is_set(name) and not self.is_set(name):
                setattr(self, name, json_copy(name, getattr(other, name)))
        for key, value in other._extra.items():
            if not self.is_set(key):
                self._extra[key] = json_copy(key, value)

    def update(self, **kwargs: Any) -> dict[str, Any]:
        """Set the fields named, and keys that are there already.

        Args:
            kwargs: new values; None leaves a field open again.

        Returns:
            What is no field, for the caller to use elsewhere or refuse.

        Raises:
            ConfigError: a value of a wrong type or outside its range.
        """
        unused: dict[str, Any] = {}
        for key, value in kwargs.items():
            if key in self.FIELDS or key in self._extra or key in UNIMPLEMENTED:
                setattr(self, key, value)
            else:
                unused[key] = value
        return unused

    def validate(self) -> None:
        """Check that `generate` can do all that is set here.

        Raises:
            ConfigError: fields contradict each other, or one is not implemented in this release.
        """
        for key, value in self._extra.items():
            if key in UNIMPLEMENTED and is_used(key, value):
                raise ConfigError(
                    f"{key} is {shown(value)}, which this release does not implement; {UNIMPLEMENTED[key].remedy}"
                )
        if self.top_logprobs and not self.output_logprobs:
            refuse("top_logprobs", self.top_logprobs, "0 unless output_logprobs is true")
        if self.num_beams > 1 and self.num_return_sequences > self.num_beams:
            refuse("num_return_sequences", self.num_return_sequences, f"at most num_beams, which is {self.num_beams}")
        if self.num_return_sequences > 1 and self.num_beams == 1 and not self.do_sample:
            refuse(
                "num_return_sequences",
                self.num_return_sequences,
                "1 unless do_sample is true or num_beams is larger: greedy has one result",
            )

    def to_dict(self) -> dict[str, Any]:
        """Every field, set or default, and kept keys, as a dict that shares nothing with this object."""
        return {
            **{key: json_copy(key, value) for key, value in self._extra.items()},
            **{name: json_copy(name, getattr(self, name)) for name in self.FIELDS},
        }

    def to_diff_dict(self) -> dict[str, Any]:
        """The fields that are set, and kept keys."""
        return {key: value for key, value in self.to_dict().items() if self.is_set(key) or key in self._extra}

    @classmethod
    def from_model_config(cls, model_config: SeedOssConfig) -> Self:
        """The settings that a model config implies: special token ids, use_cache, and outputs it switches on."""
        result = cls(
            pad_token_id=model_config.pad_token_id,
            bos_token_id=model_config.bos_token_id,
            eos_token_id=model_config.eos_token_id,
        )
        if not model_config.use_cache:
            result.use_cache = False
        for name in ("output_attentions", "output_hidden_states"):
            if getattr(model_config, name):
                setattr(result, name, True)
                result.return_dict_in_generate = True
        return result

    def _check_before_saving(self) -> None:
        """Every field was checked when it was set; what is not implemented here may be written for other readers."""

    @classmethod
    def _from_content(cls, content: dict[str, Any], kwargs: dict[str, Any]) -> tuple[Self, dict[str, Any]]:
        config = cls(**content)
        return config, config.update(**kwargs)
