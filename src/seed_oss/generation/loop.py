"""The loop: run the model, change the scores, choose a token, decide who is done."""

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from seed_oss.errors import InputError
from seed_oss.generation.columns import Columns
from seed_oss.generation.outputs import GenerateDecoderOnlyOutput
from seed_oss.generation.plan import GenerationPlan, RecordFlags
from seed_oss.generation.row_watch import RowWatch
from seed_oss.generation.runner import Runner
from seed_oss.generation.sampling import choose_greedily
from seed_oss.generation.steering import Steering
from seed_oss.generation.token_log_probs import LogProbRecord
from seed_oss.nn.fused_step import RowSteps


@dataclass
class Record:
    """What is kept of each step, as far as it was asked for."""

    flags: RecordFlags
    log_probs: LogProbRecord | None = None
    forced: list[list[bool]] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    attentions: list[Any] = field(default_factory=list)
    hidden_states: list[Any] = field(default_factory=list)

    def add(self, output: Any, logits: Tensor, scores: Tensor) -> None:
        """Keep what was asked for of one step."""
        if self.flags.scores:
            self.scores.append(scores)
        if self.flags.logits:
            self.logits.append(logits)
        if self.flags.attentions:
            self.attentions.append(output.attentions)
        if self.flags.hidden_states:
            self.hidden_states.append(output.hidden_states)

    def add_tokens(self, logits: Tensor, tokens: Tensor, steering: Steering) -> None:
        """Keep what was asked for of the tokens that a step came to."""
        if self.log_probs is not None:
            self.log_probs.add(logits, tokens)
        if self.flags.as_dict and steering:
            self.forced.append(steering.forced())

    def scores_so_far(self) -> tuple[Tensor, ...] | None:
        """For stopping criteria."""
        return tuple(self.scores) if self.flags.scores else None


def run_plan(plan: GenerationPlan, streamer: Any) -> Tensor | GenerateDecoderOnlyOutput:
    """Generate.

    Args:
        plan: what to do.
        streamer: gets the prompt, then each step's tokens; or None.

    Returns:
        Ids `[batch, length]`, or these with what was recorded on the way.

    Raises:
        NumericalError: there was no number to choose a token by.
    """
    ids = Columns(plan.input_ids, plan.max_new)
    watch = RowWatch(plan.criteria, plan.input_ids, plan.pad_token_id, streamer, plan.steering)
    if streamer is not None:
        streamer.put(plan.input_ids.cpu())
    num_top = plan.record.top_logprobs
    record = Record(plan.record, None if num_top is None else LogProbRecord(num_top))
    _decode(plan, plan.runner, ids, watch, record)
    plan.runner.finish()
    watch.check_numbers()
    if streamer is not None:
        streamer.end()
    return _result(plan, ids, record, watch)


def _is_plain(plan: GenerationPlan, watch: RowWatch) -> bool:
    """Whether one row goes on with the best token each time, and nobody wants more than that."""
    is_greedy = plan.choose is choose_greedily and not plan.processors and not plan.steering
    return is_greedy and watch.can_take and not plan.record.any_of_steps


def _decode(plan: GenerationPlan, runner: Runner, ids: Columns, watch: RowWatch, record: Record) -> None:
    warn_beyond_model(plan, 0)
    output = runner.prefill()
    logits = last_logits(output, plan.record)
    if plan.repeats_after_prefill > 1:
        runner.repeat(plan.repeats_after_prefill)
        logits = logits.repeat_interleave(plan.repeats_after_prefill, dim=0)
    token_index, row_steps = 0, runner.row_steps() if _is_plain(plan, watch) else None
    while not watch.look():
        scores = process(plan, ids.view(), plan.steering.restrict(logits))
        chosen = plan.choose(scores, token_index)
        upheld = plan.steering.uphold(chosen, scores, logits)
        if upheld is not scores:
            scores, chosen = upheld, plan.choose(upheld, token_index)
        if watch.drop(chosen, scores):
            return
        record.add(output, logits, scores)
        output = None  # its memory is free for the next one
        tokens = watch.settle(plan.steering.force(chosen, logits.shape[-1]))
        record.add_tokens(logits, tokens, plan.steering)
        del logits, scores
        ids.append(tokens)
        is_ahead = runner.runs_ahead and not plan.steering and token_index + 1 < plan.max_new
        if is_ahead:  # the host reads the tokens while the device goes on
            watch.send(tokens)
            output = runner.step(tokens.clamp(min=0), ids, watch.filled)
        if watch.update(tokens, ids, record.scores_so_far()):
            if is_ahead:
                runner.take_back_step()
            return
        token_index += 1
        warn_beyond_model(plan, token_index)
        if row_steps is not None:
            last = _go_on(plan, row_steps, int(tokens), token_index, ids, watch)
            if last is None:
                return
            tokens, token_index = torch.tensor([last[0]]), last[1]
        if not is_ahead:
            output = runner.step(tokens, ids, watch.filled)
        logits = last_logits(output, plan.record)


def _go_on(
    plan: GenerationPlan, steps: RowSteps, token: int, token_index: int, ids: Columns, watch: RowWatch
) -> tuple[int, int] | None:
    """Go on with the best token each time, as long as it goes without the model itself.

    Args:
        plan: what to do.
        steps: of the row.
        token: the last one.
        token_index: how many have been generated, that one included.
        ids: everything so far; gets the new ones.
        watch: is told of each.

    Returns:
        The last token that was found, and how many have been generated; None where the row is done.
    """
    found: list[int] = []
    length = len(ids)
    try:
        while (following := steps.next(token)) is not None:
            token = following
            found.append(token)
            if watch.take(token, length + len(found)) is not None:
                return None
            token_index += 1
            warn_beyond_model(plan, token_index, stacklevel=7)
    finally:
        if found:
            ids.extend(torch.tensor([found]))
    return token, token_index


def process(plan: GenerationPlan, ids: Tensor, logits: Tensor) -> Tensor:
    """Apply the logits processors; `ids` `[batch, length]`, `logits` float32 `[batch, vocab]`."""
    scores = plan.processors(ids, logits.clone() if plan.record.logits else logits)
    if not isinstance(scores, Tensor) or scores.shape != logits.shape:
        given = list(scores.shape) if isinstance(scores, Tensor) else repr(scores)
        raise InputError(f"the logits processors returned {given}; they must return scores {list(logits.shape)}")
    return scores


def last_logits(output: Any, flags: RecordFlags) -> Tensor:
    """Float32 `[batch, vocab]`. A copy if it will be kept: a compiled model may write into its output again."""
    return output.logits[:, -1].to(torch.float32, copy=flags.logits or flags.scores)


def warn_beyond_model(plan: GenerationPlan, token_index: int, stacklevel: int = 6) -> None:
    """Say once that positions outgrow the model; `stacklevel` calls above is the line that called `generate`."""
    if token_index == plan.warns_at:
        warnings.warn(
            f"positions go beyond max_position_embeddings={plan.max_position_embeddings}; the model was not made for "
            "this length, and results may be poor",
            stacklevel=stacklevel,
        )


def _result(plan: GenerationPlan, ids: Columns, record: Record, watch: RowWatch) -> Tensor | GenerateDecoderOnlyOutput:
    sequences = ids.view().to(plan.output_device, copy=True).contiguous()
    flags = plan.record
    if not flags.as_dict:
        return sequences
    return GenerateDecoderOnlyOutput(
        sequences=sequences,
        scores=tuple(record.scores) if flags.scores else None,
        logits=tuple(record.logits) if flags.logits else None,
        attentions=tuple(record.attentions) if flags.attentions else None,
        hidden_states=tuple(record.hidden_states) if flags.hidden_states else None,
        past_key_values=plan.runner.cache,
        finish_reasons=watch.reasons,
        **_token_fields(plan, len(ids) - plan.input_ids.shape[1], record, watch),
    )


def _token_fields(plan: GenerationPlan, num_new: int, record: Record, watch: RowWatch) -> dict[str, Any]:
    is_token = torch.arange(num_new) < torch.tensor(watch.num_tokens)[:, None]
    fields: dict[str, Any] = {}
    if plan.steering:
        forced = torch.tensor(record.forced, dtype=torch.bool).reshape(num_new, is_token.shape[0]).T
        fields["forced"] = forced.contiguous().to(plan.output_device)
        fields["control_states"] = plan.steering.states()
    if record.log_probs is not None:
        fields |= record.log_probs.fields(is_token, plan.output_device)
    return fields
