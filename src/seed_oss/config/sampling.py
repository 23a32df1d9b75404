"""SamplingParams: how one request to the engine is continued."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from seed_oss.config.fields import Check, boolean, integer, list_of, number, optional, refuse, text
from seed_oss.config.generation import MAX_DRAFT, MAX_SEED, GenerationConfig
from seed_oss.config.token_settings import read_breakers, read_logit_bias, read_words, token_ids
from seed_oss.errors import ConfigError

MAX_CHOICES = 16
MAX_LOGPROBS = 20
MAX_STOPS = 16
MAX_STOP_CHARS = 256


def _read_stops(field: str, value: Any) -> tuple[str, ...]:
    """Nothing, a text, or a list of texts, as a tuple."""
    stops = list_of(text)(field, [] if value is None else [value] if isinstance(value, str) else value)
    if len(stops) > MAX_STOPS or any(len(stop) > MAX_STOP_CHARS for stop in stops):
        refuse(field, value, f"at most {MAX_STOPS} texts of at most {MAX_STOP_CHARS} characters")
    return tuple(stops)


def _read_ids(field: str, value: Any) -> tuple[int, ...]:
    return tuple(token_ids(field, () if value is None else value))


_CHECKS: dict[str, Check] = {
    "n": integer(1, MAX_CHOICES),
    "max_tokens": optional(integer(1)),
    "min_tokens": integer(0),
    "temperature": optional(number(0.0, 2.0)),
    "top_p": optional(number(0.0, 1.0)),
    "top_k": optional(integer(0)),
    "min_p": optional(number(0.0, 1.0)),
    "typical_p": optional(number(0.0, 1.0, above=True)),
    "top_n_sigma": optional(number(0.0)),
    "xtc_probability": optional(number(0.0, 1.0)),
    "xtc_threshold": optional(number(0.0, 1.0)),
    "repetition_penalty": optional(number(0.0, above=True)),
    "frequency_penalty": optional(number(-2.0, 2.0)),
    "presence_penalty": optional(number(-2.0, 2.0)),
    "dry_multiplier": optional(number(0.0)),
    "dry_base": optional(number(1.0)),
    "dry_allowed_length": optional(integer(1)),
    "dry_sequence_breakers": optional(read_breakers),
    "dry_range": optional(integer(0)),
    "logit_bias": optional(read_logit_bias),
    "bad_words_ids": optional(read_words),
    "seed": optional(integer(0, MAX_SEED)),
    "stop": _read_stops,
    "stop_token_ids": _read_ids,
    "ignore_eos": boolean,
    "logprobs": optional(integer(0, MAX_LOGPROBS)),
    "prompt_logprobs": optional(integer(0, MAX_LOGPROBS)),
    "prompt_lookup_num_tokens": optional(integer(1, MAX_DRAFT)),
}
_SAME = (
    "top_p",
    "min_p",
    "typical_p",
    "top_n_sigma",
    "xtc_probability",
    "xtc_threshold",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "dry_sequence_breakers",
    "dry_range",
    "logit_bias",
    "bad_words_ids",
    "prompt_lookup_num_tokens",
)  # fields of the same name and meaning in GenerationConfig
_MODEL_ONLY = (
    "epsilon_cutoff",
    "eta_cutoff",
    "no_repeat_ngram_size",
    "sequence_bias",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
    "renormalize_logits",
    "max_matching_ngram_size",
)  # of GenerationConfig, which the model's files may set and a request may not


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """Settings of one request; checked when made, never changed.

    What is None among the settings of sampling is taken from the model's generation_config.json, and where that says
    nothing, from the defaults of OpenAI's API (temperature and top_p 1, all else off). Cutoffs, forced and suppressed
    tokens, `sequence_bias`, `no_repeat_ngram_size`, `renormalize_logits` and `max_matching_ngram_size` are always that
    file's; its lengths, beams, stop strings and time limit are those of `generate` alone.

    Args:
        n: answers to the same prompt.
        max_tokens: most new tokens of each; None takes what the context has room for.
        min_tokens: no end before so many.
        temperature: divides the logits, from 0 to 2; 0 takes the most likely token.
        top_p, top_k, min_p, typical_p, top_n_sigma, xtc_probability, xtc_threshold: see GenerationConfig; 0 switches
            top_k off.
        repetition_penalty, frequency_penalty, presence_penalty: see GenerationConfig.
        dry_multiplier, dry_base, dry_allowed_length, dry_sequence_breakers, dry_range: see GenerationConfig.
        logit_bias: mapping from token ids to numbers from -100 to 100.
        bad_words_ids: lists of token ids that may not come.
        seed: draws repeat with the same one, whatever else is running; None draws one at random.
        stop: a text or up to 16 of them, of 256 characters each, that end an answer where they appear in it.
        stop_token_ids: ids that end an answer, besides the model's own.
        ignore_eos: the model's own end does not end an answer.
        logprobs: log-probabilities of the tokens, and of this many most probable ones, up to 20; None for none.
        prompt_logprobs: the same of the prompt's tokens.
        prompt_lookup_num_tokens: guess up to so many tokens ahead by copying from the text so far; changes no result.

    Raises:
        ConfigError: a value of a wrong type or out of range.
    """

    n: int = 1
    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    top_n_sigma: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_sequence_breakers: list[str | int] | None = None
    dry_range: int | None = None
    logit_bias: Mapping[int, float] | None = None
    bad_words_ids: list[list[int]] | None = None
    seed: int | None = None
    stop: str | tuple[str, ...] | list[str] | None = ()
    stop_token_ids: tuple[int, ...] | list[int] | None = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    prompt_lookup_num_tokens: int | None = None

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ConfigError(
                f"min_tokens is {self.min_tokens} and max_tokens {self.max_tokens}; the first must not be above the "
                "second"
            )

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        return _read_stops("stop", self.stop)

    def to_json(self) -> dict[str, Any]:
        """What differs from the defaults, as JSON can hold it."""
        plain = SamplingParams()
        return {
            field.name: value
            for field in fields(self)
            if (value := getattr(self, field.name)) != getattr(plain, field.name)
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`.

        Raises:
            ConfigError: an unknown name, or a value that is not allowed.
        """
        unknown = set(values) - set(_CHECKS)
        if unknown:
            raise ConfigError(f"sampling parameters have no {sorted(unknown)[0]!r:.80}; known: {', '.join(_CHECKS)}")
        return cls(**values)

    def generation_config(self, model: GenerationConfig) -> GenerationConfig:
        """The same settings for the parts that generation is made of.

        Args:
            model: of the model's files, for what is not set here.

        Returns:
            With `max_new_tokens` left open where `max_tokens` is None.
        """
        given: dict[str, Any] = {name: getattr(self, name) for name in _SAME}
        settings = {name: getattr(model, name) if value is None else value for name, value in given.items()}
        settings |= {name: getattr(model, name) for name in _MODEL_ONLY if model.is_set(name)}
        temperature = self._or_model("temperature", model, 1.0)
        eos = () if self.ignore_eos else as_ids(model.eos_token_id)
        return GenerationConfig(
            **settings,
            do_sample=temperature > 0.0,
            temperature=temperature if temperature > 0.0 else 1.0,
            top_k=self._or_model("top_k", model, 0),
            max_new_tokens=self.max_tokens,
            min_new_tokens=self.min_tokens or None,
            seed=self.seed,
            stop_strings=list(self.stops) or None,
            eos_token_id=[*dict.fromkeys((*eos, *_read_ids("stop_token_ids", self.stop_token_ids)))] or None,
            output_logprobs=self.logprobs is not None,
            top_logprobs=self.logprobs,
        )

    def _or_model(self, name: str, model: GenerationConfig, default: Any) -> Any:
        value = getattr(self, name)
        if value is not None:
            return value
        return getattr(model, name) if model.is_set(name) else default


def as_ids(ids: int | list[int] | None) -> tuple[int, ...]:
    """Nothing, a token id, or a list of them, as a tuple."""
    return () if ids is None else (ids,) if isinstance(ids, int) else tuple(ids)
