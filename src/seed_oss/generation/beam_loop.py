"""The loop of beam search: run the model, rank the continuations, reorder the cache."""

from typing import Any

import torch
from torch import Tensor

from seed_oss.errors import InputError, NumericalError
from seed_oss.generation.beams import (
    Beams,
    BeamSettings,
    BeamState,
    advance,
    candidates,
    first_state,
    goes_on,
    returned,
)
from seed_oss.generation.columns import Columns
from seed_oss.generation.loop import Record, last_logits, process, warn_beyond_model
from seed_oss.generation.outputs import GenerateBeamDecoderOnlyOutput
from seed_oss.generation.plan import GenerationPlan


def run_beams(plan: GenerationPlan, streamer: Any) -> Tensor | GenerateBeamDecoderOnlyOutput:
    """Search.

    Args:
        plan: what to do.
        streamer: must be None: until the end no token is certain.

    Returns:
        Ids `[batch * num_return_sequences, length]`, or these with what was recorded on the way.

    Raises:
        InputError: a streamer.
        NumericalError: there was no number to rank tokens by.
    """
    settings = plan.beams
    assert settings is not None
    if streamer is not None:
        raise InputError(f"a streamer is given and num_beams is {settings.num_beams}; set num_beams=1 to stream")
    record = Record(plan.record)
    state = _search(plan, settings, record)
    plan.runner.finish()
    return _result(plan, returned(state, settings), record)


def _search(plan: GenerationPlan, settings: BeamSettings, record: Record) -> BeamState:
    warn_beyond_model(plan, 0)
    output = plan.runner.prefill()
    logits = last_logits(output, plan.record)
    if plan.repeats_after_prefill > 1:
        plan.runner.repeat(plan.repeats_after_prefill)
        logits = logits.repeat_interleave(plan.repeats_after_prefill, dim=0)
    state = first_state(plan.input_ids, settings.num_beams)
    while True:
        log_probs = process(plan, state.running.rows, logits.log_softmax(dim=-1))
        record.add(output, logits, log_probs)
        del output, logits
        found = _mark_ended(plan, candidates(state, log_probs, settings, plan.pick), record)
        state = advance(state, found, settings)
        if not goes_on(state, settings):
            return state
        warn_beyond_model(plan, state.num_new)
        plan.runner.reorder(state.running.origins[..., -1].flatten().long())
        rows = state.running.rows
        output = plan.runner.step(rows[:, -1], Columns(rows, 0), [False] * len(rows))
        logits = last_logits(output, plan.record)


def _mark_ended(plan: GenerationPlan, found: Beams, record: Record) -> Beams:
    hopeless = ~(found.scores.amax(dim=1) > -torch.inf)
    if bool(hopeless.any()):
        raise NumericalError(
            f"prompt {int(hopeless.nonzero()[0])} has no finite score to rank tokens by: its logits are NaN, or every "
            "token is forbidden; load the model in bfloat16 or float32 if it is in float16, and check weights and "
            "logits processors"
        )
    ended = plan.criteria(found.rows, record.scores_so_far())
    return Beams(found.ids, found.scores, found.origins, ended.view_as(found.ended))


def _result(plan: GenerationPlan, best: Beams, record: Record) -> Tensor | GenerateBeamDecoderOnlyOutput:
    sequences = best.rows.to(plan.output_device).contiguous()
    flags = plan.record
    if not flags.as_dict:
        return sequences
    return GenerateBeamDecoderOnlyOutput(
        sequences=sequences,
        sequences_scores=best.scores.flatten().to(plan.output_device) if flags.scores else None,
        scores=tuple(record.scores) if flags.scores else None,
        logits=tuple(record.logits) if flags.logits else None,
        beam_indices=best.origins.flatten(0, 1).to(plan.output_device),
        attentions=tuple(record.attentions) if flags.attentions else None,
        hidden_states=tuple(record.hidden_states) if flags.hidden_states else None,
        past_key_values=plan.runner.cache,
    )
