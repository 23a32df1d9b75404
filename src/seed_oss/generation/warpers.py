"""Logits processors that shape the distribution tokens are drawn from, under the reference's names.

The work is done by the pure functions of `logits.py`; an object only keeps the settings.
"""

import math
from typing import Any

import torch
from torch import Tensor

from seed_oss.errors import InputError
from seed_oss.generation.logits import (
    exclude_top_choices,
    keep_epsilon,
    keep_eta,
    keep_min_p,
    keep_top_k,
    keep_top_n_sigma,
    keep_top_p,
    keep_typical,
)
from seed_oss.generation.noise import XTC_USE, split_seed, uniform_noise
from seed_oss.generation.processor_base import LogitsProcessor, check_float, check_int, id_tensor


class TemperatureLogitsWarper(LogitsProcessor):
    """Divides the scores.

    Args:
        temperature: > 0; above 1 flattens the distribution, below 1 sharpens it.
    """

    def __init__(self, temperature: float) -> None:
        if temperature == 0:
            raise InputError("temperature is 0; for greedy decoding set do_sample=False")
        self.temperature = check_float("temperature", temperature, 0.0, above=True)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See LogitsProcessor."""
        return scores / self.temperature


class TopKLogitsWarper(LogitsProcessor):
    """Keeps the most probable tokens.

    Args:
        top_k: how many, >= 1; ties with the last one are kept.
        filter_value: score of the others.
        min_tokens_to_keep: lower bound on `top_k`.
    """

    def __init__(self, top_k: int, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        self.top_k = max(check_int("top_k", top_k, 1), min_tokens_to_keep)
        self.filter_value = filter_value

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See LogitsProcessor."""
        return keep_top_k(scores, self.top_k, self.filter_value)


class TopPLogitsWarper(LogitsProcessor):
    """Keeps the smallest set of most probable tokens with a given mass.

    Args:
        top_p: the mass, 0 to 1.
        filter_value: score of the others.
        min_tokens_to_keep: how many tokens to keep at least.
    """

    def __init__(self, top_p: float, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        self.top_p = check_float("top_p", top_p, 0.0, 1.0)
        self.filter_value = filter_value
        self.min_tokens_to_keep = check_int("min_tokens_to_keep", min_tokens_to_keep, 1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See LogitsProcessor."""
        return keep_top_p(scores, self.top_p, self.min_tokens_to_keep, self.filter_value)


class MinPLogitsWarper(LogitsProcessor):
    """Keeps tokens whose probability is at least a share of the best one's.

    Args:
        min_p: the share, 0 to 1.
        filter_value: score of the others.
        min_tokens_to_keep: how many tokens to keep at least.
    """

    def __init__(self, min_p: float, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        self.min_p = check_float("min_p", min_p, 0.0, 1.0)
        self.filter_value = filter_value
        self.min_tokens_to_keep = check_int("min_tokens_to_keep", min_tokens_to_keep, 1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See LogitsProcessor."""
        return keep_min_p(scores, self.min_p, self.min_tokens_to_keep, self.filter_value)


class TypicalLogitsWarper(LogitsProcessor):
    """Keeps the tokens whose information content is nearest to the expected one, up to a given mass.

    Args:
        mass: the mass, above 0 and below 1.
        filter_value: score of the others.
        min_tokens_to_keep: how many tokens to keep at least.
    """

    def __init__(self, mass: float = 0.9, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        self.mass = check_float("typical_p", mass, 0.0, 1.0, above=True)
        if mass == 1:
            raise InputError("typical_p is 1, which keeps everything; it must be below 1 here")
        self.filter_value = filter_value
        self.min_tokens_to_keep = check_int("min_tokens_to_keep", min_tokens_to_keep, 1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See LogitsProcessor."""
        return keep_typical(scores, self.mass, self.min_tokens_to_keep, self.filter_value)


class EpsilonLogitsWarper(LogitsProcessor):
    """Keeps tokens of at least a given probability.

    Args:
        epsilon: the probability, above 0 and below 1.
        filter_value: score of the others.
        min_tokens_to_keep: how many tokens to keep at least.
    """

    def __init__(self, epsilon: float, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        self.epsilon = check_float("epsilon_cutoff", epsilon, 0.0, 1.0, above=True)
        self.filter_value = filter_value
        self.min_tokens_to_keep = check_int("min_tokens_to_keep", min_tokens_to_keep, 1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See LogitsProcessor."""
        return keep_epsilon(scores, self.epsilon, self.min_tokens_to_keep, self.filter_value)


class EtaLogitsWarper(LogitsProcessor):
    """Keeps tokens of at least a probability that is lower where the distribution is flat.

    Args:
        epsilon: the highest that probability gets, above 0 and below 1.
        filter_value: score of the others.
        min_tokens_to_keep: how many tokens to keep at least.
        device: has no effect; the reference has it.
    """

    def __init__(
        self,
        epsilon: float,
        filter_value: float = -math.inf,
        min_tokens_to_keep: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.epsilon = check_float("eta_cutoff", epsilon, 0.0, 1.0, above=True)
        self.filter_value = filter_value
        self.min_tokens_to_keep = check_int("min_tokens_to_keep", min_tokens_to_keep, 1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See LogitsProcessor."""
        return keep_eta(scores, self.epsilon, self.min_tokens_to_keep, self.filter_value)


class TopNSigmaLogitsWarper(LogitsProcessor):
    """Keeps tokens whose score is within some standard deviations of the best one.

    Args:
        top_n_sigma: how many standard deviations of the row's scores, above 0.
        filter_value: score of the others.
        min_tokens_to_keep: how many tokens to keep at least.
    """

    def __init__(self, top_n_sigma: float, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        self.top_n_sigma = check_float("top_n_sigma", top_n_sigma, 0.0, above=True)
        self.filter_value = filter_value
        self.min_tokens_to_keep = check_int("min_tokens_to_keep", min_tokens_to_keep, 1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See LogitsProcessor."""
        return keep_top_n_sigma(scores, self.top_n_sigma, self.min_tokens_to_keep, self.filter_value)


class XTCLogitsWarper(LogitsProcessor):
    """Now and then leaves out the best choices and keeps the least probable one of them.

    Args:
        threshold: probability from which a token is one of the best choices, 0 to 1; above 0.5 there is never more
            than one, and nothing happens.
        probability: how often it happens, 0 to 1.
        prompt_length_to_skip: length of the prompt; with `seed`, chance depends on the tokens after it.
        seed: chance as a function of (seed, row, token index); None draws from `generator`.
        first_row: number that the first row has among those that share the seed.
        generator: the source of chance without `seed`; None is torch's global one.
        protected_ids: tokens never left out, such as the end of sequence; where one would be, the row stays as it is.
        filter_value: score of what is left out.
        min_tokens_to_keep: a row that would keep fewer tokens than this stays as it is.

    Source: text-generation-webui, pull request 6335, which protects the end of sequence and the newline; llama.cpp.
    """

    def __init__(
        self,
        threshold: float,
        probability: float,
        *,
        prompt_length_to_skip: int = 0,
        seed: int | None = None,
        first_row: int = 0,
        generator: torch.Generator | None = None,
        protected_ids: Any = (),
        filter_value: float = -math.inf,
        min_tokens_to_keep: int = 1,
    ) -> None:
        self.threshold = check_float("xtc_threshold", threshold, 0.0, 1.0)
        self.probability = check_float("xtc_probability", probability, 0.0, 1.0)
        self.prompt_length_to_skip = check_int("prompt_length_to_skip", prompt_length_to_skip, 0)
        self.protected_ids = id_tensor("protected_ids", protected_ids)
        self.filter_value = filter_value
        self.min_tokens_to_keep = check_int("min_tokens_to_keep", min_tokens_to_keep, 1)
        self._key = None if seed is None else split_seed(seed)
        self._first_row = check_int("first_row", first_row, 0)
        self._generator = generator

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See LogitsProcessor."""
        applies = self._chances(input_ids, scores.device) < self.probability
        return exclude_top_choices(
            scores,
            self.threshold,
            applies,
            self.protected_ids.to(scores.device),
            self.min_tokens_to_keep,
            self.filter_value,
        )

    def _chances(self, input_ids: Tensor, device: torch.device) -> Tensor:
        """Float32 `[batch]`, 0 to 1 without 1."""
        num_rows, length = input_ids.shape
        if self._key is None:
            return torch.rand(num_rows, generator=self._generator, device=device)
        rows = torch.arange(self._first_row, self._first_row + num_rows, device=device)
        return uniform_noise(self._key, rows, max(length - self.prompt_length_to_skip, 0), XTC_USE)


class LogitNormalization(LogitsProcessor):
    """Turns scores into log-probabilities, for whoever adds up or compares scores after filters have changed them."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See LogitsProcessor."""
        return scores.log_softmax(dim=-1)
