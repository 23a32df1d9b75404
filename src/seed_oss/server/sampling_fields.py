"""Fields that say how an answer is continued; the same in every endpoint that gives text."""

from typing import Annotated, Any

from pydantic import Field

from seed_oss.config.generation import MAX_DRAFT, MAX_SEED
from seed_oss.config.sampling import MAX_CHOICES, SamplingParams
from seed_oss.server.bodies import Ignored
from seed_oss.server.errors import ApiError, refusing

MAX_TOKENS = 2**31 - 1
MAX_PRIORITY = 2
MAX_BAD_WORDS = 300
MAX_WORD_TOKENS = 64
Share = Annotated[float | None, Field(ge=0.0, le=1.0)]
Penalty = Annotated[float | None, Field(ge=-2.0, le=2.0)]
Priority = Annotated[int | None, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)]
Count = Annotated[int | None, Field(ge=1, le=MAX_TOKENS)]
_Word = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=MAX_WORD_TOKENS)]


class SamplingFields(Ignored):
    """Settings of sampling, with OpenAI's names and ranges where it has them. What is left out is the model's own."""

    n: Annotated[int | None, Field(ge=1, le=MAX_CHOICES)] = None
    temperature: Annotated[float | None, Field(ge=0.0, le=2.0)] = None
    top_p: Share = None
    top_k: Annotated[int | None, Field(ge=-1, le=2**31 - 1)] = None
    min_p: Share = None
    typical_p: Annotated[float | None, Field(gt=0.0, le=1.0)] = None
    top_n_sigma: Annotated[float | None, Field(ge=0.0)] = None
    xtc_probability: Share = None
    xtc_threshold: Share = None
    repetition_penalty: Annotated[float | None, Field(gt=0.0)] = None
    frequency_penalty: Penalty = None
    presence_penalty: Penalty = None
    dry_multiplier: Annotated[float | None, Field(ge=0.0)] = None
    dry_base: Annotated[float | None, Field(ge=1.0)] = None
    dry_allowed_length: Count = None
    dry_sequence_breakers: Annotated[list[Any] | None, Field(max_length=64)] = None
    dry_range: Annotated[int | None, Field(ge=0, le=MAX_TOKENS)] = None
    logit_bias: Annotated[dict[str, float] | None, Field(max_length=300)] = None
    bad_words_ids: Annotated[list[_Word] | None, Field(min_length=1, max_length=MAX_BAD_WORDS)] = None
    prompt_lookup_num_tokens: Annotated[int | None, Field(ge=1, le=MAX_DRAFT)] = None
    seed: Annotated[int | None, Field(ge=0, le=MAX_SEED)] = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    stop_token_ids: Annotated[list[int] | None, Field(max_length=1024)] = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[int | None, Field(ge=0, le=MAX_TOKENS)] = None
    priority: Priority = None

    @property
    def num_choices(self) -> int:
        """Answers wanted."""
        return self.n or 1

    def sampling(self, vocab_size: int, **more: Any) -> SamplingParams:
        """The settings as the engine takes them.

        Args:
            vocab_size: ids must be below; `top_k` is clamped to it.
            **more: fields of SamplingParams that endpoints name differently.

        Raises:
            ApiError: a value that is not allowed.
        """
        named = SamplingParams.__dataclass_fields__.keys() & SamplingFields.model_fields.keys()
        given: dict[str, Any] = {name: value for name in named if (value := getattr(self, name)) is not None}
        if self.top_k is not None:
            given["top_k"] = 0 if self.top_k == -1 else min(self.top_k, vocab_size)
        given |= {"n": self.num_choices, "min_tokens": self.min_tokens or 0, "ignore_eos": bool(self.ignore_eos)}
        with refusing():
            params = SamplingParams(**given, **more)
        _check_ids("logit_bias", list(params.logit_bias or ()), vocab_size)
        _check_ids("bad_words_ids", [one for word in params.bad_words_ids or () for one in word], vocab_size)
        _check_ids("stop_token_ids", list(params.stop_token_ids or ()), vocab_size)
        return params


def _check_ids(param: str, ids: list[int], vocab_size: int) -> None:
    if any(token_id >= vocab_size for token_id in ids):
        raise ApiError(
            "invalid", f"{param} names the token {max(ids)}; the vocabulary has {vocab_size} tokens", param=param
        )
