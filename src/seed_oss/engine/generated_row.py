"""One answer while it grows: how its next token is chosen and when it ends, exactly as `generate` does it alone."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seed_oss.config import GenerationConfig
from seed_oss.engine.messages import LogProbs
from seed_oss.errors import NumericalError
from seed_oss.generation.columns import Columns
from seed_oss.generation.dry import DryBreakers
from seed_oss.generation.grammar import GrammarState
from seed_oss.generation.lengths import Lengths
from seed_oss.generation.prompt import Prompt
from seed_oss.generation.prompt_lookup import NgramIndex
from seed_oss.generation.row_control import RowControl
from seed_oss.generation.row_watch import RowWatch
from seed_oss.generation.sampling import NO_TOKEN, choose_greedily, sampler
from seed_oss.generation.settings import make_criteria, make_processors
from seed_oss.generation.steering import Steering
from seed_oss.generation.token_log_probs import token_log_probs

_DEFAULT_NGRAM = 2
_SLOW_S = 0.003  # processor time of a mask that others should not wait for


@dataclass(frozen=True, slots=True)
class Growth:
    """What a step came to for one row.

    Attributes:
        token_ids: new tokens.
        reason: why the row has ended, or None.
        logprobs: of the tokens, if asked for.
    """

    token_ids: tuple[int, ...]
    reason: str | None
    logprobs: LogProbs | None = None


class GeneratedRow:
    """Chooses the tokens of one row.

    Args:
        prompt_ids: of the row.
        choice: number of the row within its request; keys the noise beside the seed.
        config: settings, with `max_new_tokens` set, and a seed where tokens are drawn.
        controls: what steers the row.
        tokenizer: for stop strings and DRY's breakers; None without either.
        breakers: DRY's, where they are found already.
    """

    def __init__(
        self,
        prompt_ids: Sequence[int],
        choice: int,
        config: GenerationConfig,
        controls: Sequence[RowControl] = (),
        tokenizer: Any = None,
        breakers: DryBreakers | None = None,
    ) -> None:
        assert config.max_new_tokens is not None
        ids = torch.tensor([prompt_ids], dtype=torch.int64)
        prompt = Prompt(ids, None, None, None, None, 0, len(prompt_ids))
        lengths = Lengths(len(prompt_ids) + config.max_new_tokens, len(prompt_ids) + (config.min_new_tokens or 0))
        steering = Steering([tuple(controls)], [prompt_ids], config.max_new_tokens)
        self._watch = RowWatch(make_criteria(config, lengths, None, tokenizer), ids, None, None, steering)
        self._steering = steering
        self._processors = make_processors(
            config, prompt, lengths, None, tokenizer=tokenizer, first_row=choice, breakers=breakers
        )
        self._choose = sampler(config.seed, None, choice) if config.do_sample else choose_greedily
        self._is_plain = not (config.do_sample or self._processors or steering) and self._watch.can_take
        self._ids = Columns(ids, config.max_new_tokens)
        self._taken: list[int] = []  # tokens that are not in it so far
        self._num_new, self._max_new = 0, config.max_new_tokens
        self._looks_slowly = False
        self._num_top = (config.top_logprobs or 0) if config.output_logprobs else None
        self._most_drafts = config.prompt_lookup_num_tokens or 0
        self._lookup = NgramIndex(config.max_matching_ngram_size or _DEFAULT_NGRAM) if self._most_drafts else None
        if self._lookup is not None:
            self._lookup.extend(prompt_ids)

    @property
    def is_plain(self) -> bool:
        """Whether the next token is the one with the highest logit, whatever came before."""
        return self._is_plain and self._num_top is None

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end it."""
        return self._watch.end_ids

    @property
    def wants_mask(self) -> bool:
        """Whether a grammar holds the next token, so that `look_ahead` may take long."""
        return any(isinstance(one, GrammarState) and one.is_held for one in self._steering.states()[0])

    @property
    def looks_slowly(self) -> bool:
        """Whether the last mask took so long that others should not wait for the next."""
        return self._looks_slowly

    def look_ahead(self) -> None:
        """Ask the grammar what may come next, before the step that wants to know. On any thread, beside no other call.

        What comes of the row is the same without.
        """
        began = time.thread_time()
        self._steering.look(self._watch.done)
        self._looks_slowly = time.thread_time() - began > _SLOW_S

    @property
    def new_ids(self) -> list[int]:
        """The tokens so far."""
        self._settle()
        return self._ids.view()[0, len(self._ids) - self._num_new :].tolist()

    def grow(self, logits: Tensor, drafts: Sequence[int] = ()) -> Growth:
        """Take the tokens that a step has computed the logits for.

        Args:
            logits: float32 `[1 + num_drafts, vocab]`, for the token behind the newest one and behind each draft.
            drafts: tokens that were guessed. Those that come out as guessed are taken, up to the first that does not.

        Raises:
            NumericalError: there is no number to choose a token by.
        """
        self._settle()
        steps: list[tuple[Tensor, Tensor, Tensor]] = []
        token_ids: list[int] = []
        reason: str | None = None
        for index in range(len(drafts) + 1):
            token, reason = self._next(logits[index : index + 1], steps)
            if token is not None:
                token_ids.append(token)
            is_right = index < len(drafts) and token == drafts[index]
            if reason is not None or not is_right or self._looks_slowly:  # one slow mask in a step is the most
                break
        return Growth(tuple(token_ids), reason, None if self._num_top is None else _log_probs(steps))

    def take(self, tokens: Sequence[int]) -> Growth:
        """Take tokens, each the one with the highest logit behind those before it, where `is_plain`.

        Those behind the one that ends the row are left out.

        Raises:
            NumericalError: there was no number to choose a token by.
        """
        for num_taken, token in enumerate(tokens, 1):
            self._count(token)
            self._taken.append(token)
            reason = self._watch.take(token, len(self._ids) + len(self._taken))
            if reason is not None:
                return Growth(tuple(tokens[:num_taken]), reason)
        return Growth(tuple(tokens), None)

    def drafts(self) -> tuple[int, ...]:
        """Guesses of what comes next; none where each would cost a slow mask."""
        limit = 0 if self._looks_slowly else min(self._most_drafts, self._max_new - self._num_new - 1)
        return () if self._lookup is None or limit < 1 else tuple(self._lookup.propose(limit))

    def _next(self, logits: Tensor, steps: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[int | None, str | None]:
        """One more token, and why the row ends; no token where it ends without one."""
        watch, steering = self._watch, self._steering
        if self._look():
            return None, watch.reasons[0]
        scores = self._processors(self._ids.view(), steering.restrict(logits))
        chosen = self._choose(scores, self._num_new)
        upheld = steering.uphold(chosen, scores, logits)
        if upheld is not scores:
            scores, chosen = upheld, self._choose(upheld, self._num_new)
        if watch.drop(chosen, scores):
            return None, watch.reasons[0]
        tokens = steering.force(chosen, logits.shape[-1])
        if self._num_top is not None:
            steps.append(token_log_probs(logits, tokens, self._num_top))
        token = int(tokens)
        return token, self._append(tokens, token)

    def _look(self) -> bool:
        """What may come next; whether the row is over."""
        began = time.thread_time()
        is_over = self._watch.look()
        self._looks_slowly |= time.thread_time() - began > _SLOW_S
        return is_over

    def _append(self, tokens: Tensor, token: int) -> str | None:
        self._count(token)
        self._ids.append(tokens)
        self._watch.update(tokens, self._ids, None)
        return self._watch.reasons[0]

    def _count(self, token: int) -> None:
        if token == NO_TOKEN:
            raise NumericalError(
                f"no finite score to choose new token {self._num_new} by: the logits are NaN, or every token is "
                "forbidden; check the weights, logit_bias and the filters"
            )
        self._num_new += 1
        if self._lookup is not None:
            self._lookup.extend((token,))

    def _settle(self) -> None:
        """Tokens that were taken one by one become part of the tensor that processors read."""
        if self._taken:
            self._ids.extend(torch.tensor([self._taken]))
            self._taken.clear()


def _log_probs(steps: Sequence[tuple[Tensor, Tensor, Tensor]]) -> LogProbs:
    return LogProbs(
        tuple(float(own) for own, _, _ in steps),
        tuple(tuple(ids[0].tolist()) for _, _, ids in steps),
        tuple(tuple(top[0].tolist()) for _, top, _ in steps),
    )
