"""Beam search as pure functions: several continuations of each prompt are kept, ranked by their log-probability.

Of each prompt there are `num_beams` running beams and as many places for finished ones. A step extends every running
beam by every token, takes the best candidates of all of them, moves those that ended to the finished ones if they are
good enough, and goes on with the others. Source: transformers generation/utils.py for what counts as good enough.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from seed_oss.generation.noise import gumbel_noise, split_seed

OUT = -1.0e9  # score of what is out of the race, far below any sum of log-probabilities

Picker = Callable[[Tensor, int, int], Tensor]
"""From scores `[batch, num_beams * vocab]`, a number of tokens generated before, and how many to pick, to int64
`[batch, picked]`, best first."""


@dataclass(frozen=True)
class BeamSettings:
    """What is asked for.

    Attributes:
        num_beams: running beams per prompt.
        num_returned: results per prompt.
        num_candidates: continuations looked at in each step; enough that not all can have ended.
        length_penalty: exponent of the length by which a finished beam's score is divided.
        early_stopping: True ends a prompt once all its places are taken; False when no running beam is better than the
            worst finished one at the present length; "never" when none could become better.
        fill: token behind the end of a row.
        max_new: most new tokens.
    """

    num_beams: int
    num_returned: int
    num_candidates: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    fill: int
    max_new: int


@dataclass(frozen=True)
class Beams:
    """Beams of each prompt.

    Attributes:
        ids: int64 `[batch, n, length]`.
        scores: float32 `[batch, n]`.
        origins: int32 `[batch, n, new]`: for each new token, the running row it continued; -1 behind the end.
        ended: bool `[batch, n]`.
    """

    ids: Tensor
    scores: Tensor
    origins: Tensor
    ended: Tensor

    def pick(self, index: Tensor) -> "Beams":
        """The beams `index`, int64 `[batch, m]`."""
        return Beams(
            _take(self.ids, index),
            self.scores.gather(1, index),
            _take(self.origins, index),
            self.ended.gather(1, index),
        )

    def beside(self, other: "Beams") -> "Beams":
        """These and the others of each prompt."""
        return Beams(
            torch.cat((self.ids, other.ids), dim=1),
            torch.cat((self.scores, other.scores), dim=1),
            torch.cat((self.origins, other.origins), dim=1),
            torch.cat((self.ended, other.ended), dim=1),
        )

    def filled(self, fill: int) -> "Beams":
        """One column more, behind the end."""
        return replace(self, ids=F.pad(self.ids, (0, 1), value=fill), origins=F.pad(self.origins, (0, 1), value=-1))

    def best(self, num: int) -> "Beams":
        """The `num` highest scores of each prompt, best first."""
        return self.pick(self.scores.topk(num).indices)

    @property
    def rows(self) -> Tensor:
        """Ids as the model gets them, `[batch * n, length]`."""
        return self.ids.flatten(0, 1)


def _take(tensor: Tensor, index: Tensor) -> Tensor:
    return tensor.gather(1, index[..., None].expand(-1, -1, tensor.shape[2]))


@dataclass(frozen=True)
class BeamState:
    """Where the search stands.

    Attributes:
        running: beams that go on.
        finished: the best ones that ended; places not taken yet score OUT.
        improvable: bool `[batch, 1]`: whether a running beam may still get among the finished ones.
        num_new: tokens generated so far.
        stuck: whether every candidate of the last step ended.
    """

    running: Beams
    finished: Beams
    improvable: Tensor
    num_new: int
    stuck: bool


def pick_best(scores: Tensor, token_index: int, num: int) -> Tensor:
    """Takes the highest scores; a Picker."""
    return scores.topk(num).indices


def sampling_picker(seed: int | None, generator: torch.Generator | None, num_beams: int) -> Picker:
    """Draws without replacement, by the noise that `sampler` would draw single tokens by.

    Args:
        seed: noise as a function of (seed, running row, token index, token); None draws from `generator`.
        generator: the source of noise; None is torch's global one.
        num_beams: beams per prompt.
    """

    def by_generator(scores: Tensor, token_index: int, num: int) -> Tensor:
        probs = scores.softmax(dim=-1)
        times = torch.empty_like(probs).exponential_(1, generator=generator)
        return (probs / times).topk(num).indices

    def by_seed(scores: Tensor, token_index: int, num: int) -> Tensor:
        rows = torch.arange(scores.shape[0] * num_beams, device=scores.device)
        noise = gumbel_noise(split_seed(seed), rows, token_index, scores.shape[1] // num_beams)
        return (scores + noise.view_as(scores)).topk(num).indices

    return by_generator if seed is None else by_seed


def first_state(prompt_ids: Tensor, num_beams: int) -> BeamState:
    """Before the first token. All beams of a prompt are equal, so all but one are out of the race.

    Args:
        prompt_ids: int64 `[batch * num_beams, length]`.
        num_beams: beams per prompt.
    """
    ids = prompt_ids.unflatten(0, (-1, num_beams))
    out = torch.full(ids.shape[:2], OUT, device=ids.device)
    scores = out.clone()
    scores[:, 0] = 0.0
    origins = torch.zeros(*ids.shape[:2], 0, dtype=torch.int32, device=ids.device)
    ended = torch.zeros(ids.shape[:2], dtype=torch.bool, device=ids.device)
    improvable = torch.ones(ids.shape[0], 1, dtype=torch.bool, device=ids.device)
    return BeamState(Beams(ids, scores, origins, ended), Beams(ids, out, origins, ended), improvable, 0, False)


def candidates(state: BeamState, log_probs: Tensor, settings: BeamSettings, pick: Picker) -> Beams:
    """The continuations to look at, none of them marked as ended yet.

    Args:
        state: where the search stands.
        log_probs: float32 `[batch * num_beams, vocab]` of the next token.
        settings: what is asked for.
        pick: takes the best ones, or draws.
    """
    running, num_beams, vocab_size = state.running, settings.num_beams, log_probs.shape[1]
    scores = (log_probs.unflatten(0, (-1, num_beams)) + running.scores[..., None]).flatten(1)
    index = pick(scores, state.num_new, min(settings.num_candidates, scores.shape[1]))
    beam, token = index // vocab_size, index % vocab_size
    offset = torch.arange(index.shape[0], device=index.device)[:, None] * num_beams
    parents = running.pick(beam)
    return Beams(
        torch.cat((parents.ids, token[..., None]), dim=2),
        scores.gather(1, index),
        torch.cat((parents.origins, (beam + offset)[..., None].to(torch.int32)), dim=2),
        parents.ended,
    )


def advance(state: BeamState, found: Beams, settings: BeamSettings) -> BeamState:
    """The state after a step.

    Args:
        state: the state before it.
        found: its candidates, marked where they ended.
        settings: what is asked for.
    """
    num_beams, length = settings.num_beams, state.num_new + 1
    running = replace(found, scores=found.scores + found.ended * OUT).best(num_beams)
    finished = _finish(state, found, settings)
    span = settings.max_new if settings.early_stopping == "never" and settings.length_penalty > 0.0 else length
    best_possible = running.scores[:, :1] / span**settings.length_penalty
    worst = torch.where(finished.ended, finished.scores.amin(dim=1, keepdim=True), OUT)
    improvable = state.improvable & (best_possible > worst).any(dim=1, keepdim=True)
    none = torch.zeros_like(running.ended)
    return BeamState(replace(running, ended=none), finished, improvable, length, bool(found.ended.all()))


def _finish(state: BeamState, found: Beams, settings: BeamSettings) -> Beams:
    """The best of those that ended before and now. Candidates behind the first `num_beams` are only a reserve."""
    among_best = torch.arange(found.ended.shape[1], device=found.ended.device) < settings.num_beams
    ended = found.ended & among_best
    scores = found.scores / (state.num_new + 1) ** settings.length_penalty
    if settings.early_stopping is True:
        scores = scores + state.finished.ended.all(dim=1, keepdim=True) * OUT
    scores = scores + ~state.improvable * OUT
    scores = scores + ~ended * OUT
    new = replace(found, scores=scores, ended=ended)
    return state.finished.filled(settings.fill).beside(new).best(settings.num_beams)


def goes_on(state: BeamState, settings: BeamSettings) -> bool:
    """Whether another step can change the result."""
    is_full = settings.early_stopping is True and bool(state.finished.ended.all())
    return bool(state.improvable.any()) and not is_full and not state.stuck


def returned(state: BeamState, settings: BeamSettings) -> Beams:
    """The best beams of each prompt, cut behind the longest."""
    best = state.finished.pick(
        torch.arange(settings.num_returned, device=state.finished.scores.device).expand(len(state.finished.ids), -1)
    )
    prompt_len = best.ids.shape[2] - best.origins.shape[2]
    num_new = int((best.origins >= 0).sum(dim=2).max())
    return replace(best, ids=best.ids[..., : prompt_len + num_new], origins=best.origins[..., :num_new])
