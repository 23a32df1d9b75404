"""`generate`: the entry."""

from typing import Any

import torch
from torch import Tensor

from seed_oss.config import GenerationConfig
from seed_oss.generation.beam_loop import run_beams
from seed_oss.generation.loop import run_plan
from seed_oss.generation.model import CausalModel
from seed_oss.generation.outputs import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput
from seed_oss.generation.plan import CallArguments, make_plan
from seed_oss.generation.streamers import check_streamer, end_with_error
from seed_oss.nn.fused import runs_natively
from seed_oss.ops.native import alone


def generate(
    model: CausalModel,
    inputs: Tensor | None = None,
    generation_config: GenerationConfig | None = None,
    logits_processor: Any = None,
    stopping_criteria: Any = None,
    streamer: Any = None,
    *,
    tokenizer: Any = None,
    generator: torch.Generator | None = None,
    row_controls: Any = None,
    assistant_model: Any = None,
    **kwargs: Any,
) -> Tensor | GenerateDecoderOnlyOutput | GenerateBeamDecoderOnlyOutput:
    """Continue prompts: greedily, by sampling, or by beam search.

    Args:
        model: a causal language model.
        inputs: the prompts, integer `[batch, length]`, padded on the left; `input_ids` is another name. None starts
            from the bos token.
        generation_config: settings; what it leaves open comes from the model's own.
        logits_processor: list of processors, called after those the settings ask for and before temperature, top_k,
            top_p and min_p.
        stopping_criteria: list of criteria; any one of them, or of those the settings ask for, suffices.
        streamer: gets the prompt and then the tokens of each step; told when an error ends the generation.
        tokenizer: gives the text in which `stop_strings` are looked for.
        generator: source of the random draws; without it and without `seed`, torch's global one.
        row_controls: what steers single rows, such as a thinking budget or a grammar: a RowControl for all rows, or a
            list with one (or None, or a list of them) per prompt, which its `num_return_sequences` rows share.
        assistant_model: a smaller causal language model with the same vocabulary that guesses tokens ahead, to be
            verified several at a time; the result is distributed as without it, and with `seed` the same.
        **kwargs: fields of GenerationConfig, which win over `generation_config`, and model inputs: `attention_mask`
            `[batch, cached + new]`, `position_ids`, `inputs_embeds` `[batch, length, hidden]` (the result then holds
            new tokens only), `past_key_values` (with all tokens, or only new ones and a mask over all),
            `logits_to_keep`.

    Returns:
        int64 `[batch * num_return_sequences, length]`: prompt and new tokens, rows that ended early filled with the
        pad token. With `return_dict_in_generate`, a GenerateDecoderOnlyOutput, or GenerateBeamDecoderOnlyOutput.

    Raises:
        InputError: an argument that is unknown, or of a wrong shape, type, value or combination.
        ConfigError: a setting of a wrong value, or one that is not available.
        CacheFullError: a StaticCache is too small for the longest possible result.
        NumericalError: the scores hold no number to choose a token by.

    Source: transformers generation/utils.py for names and meanings.
    """
    check_streamer(streamer)
    call = CallArguments(
        inputs,
        generation_config,
        logits_processor,
        stopping_criteria,
        tokenizer,
        generator,
        kwargs,
        row_controls,
        assistant_model,
    )
    try:
        with torch.no_grad(), alone(runs_natively(model)):
            plan = make_plan(model, call)
            return run_plan(plan, streamer) if plan.beams is None else run_beams(plan, streamer)
    except BaseException as error:
        end_with_error(streamer, error)
        raise
