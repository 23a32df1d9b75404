"""What a GGUF file says of its model before a weight is read: configuration, generation advice, tensors, tokenizer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from seed_oss.config import GenerationConfig, SeedOssConfig
from seed_oss.errors import CheckpointError, UnsupportedModelError
from seed_oss.quant.gguf_config import PlannedTensor, config_from_gguf, plan_tensors
from seed_oss.quant.gguf_dequantize import check_readable, read_pieces
from seed_oss.quant.gguf_header import GGUFHeader, read_gguf_header
from seed_oss.quant.gguf_metadata import get_float, get_int
from seed_oss.quant.gguf_rope import ROPE_FREQS
from seed_oss.quant.gguf_tokenizer import GGUFTokenizer, end_ids, tokenizer_from_gguf

if TYPE_CHECKING:
    import numpy as np

PLAIN_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Storage that is numbers already, and the dtype of them."""
_MAX_ROPE_FACTORS = 4_096
_SAMPLING_KEYS = {"temp": "temperature", "top_p": "top_p", "min_p": "min_p", "penalty_repeat": "repetition_penalty"}


@dataclass(frozen=True)
class GGUFModel:
    """The model in a GGUF file.

    Attributes:
        header: of the file.
        config: of the model. As stored (`dtype=None`), its `quantization_config` says whether matrices are in blocks.
        generation_config: advice on sampling and the tokens that end a text.
        plan: every tensor of the checkpoint and where it comes from.
    """

    header: GGUFHeader
    config: SeedOssConfig
    generation_config: GenerationConfig
    plan: tuple[PlannedTensor, ...]


def read_gguf_model(file: BinaryIO, *, source: str, dtype: str | None = None) -> GGUFModel:
    """Read and check everything but weights and tokenizer.

    Args:
        file: The open GGUF file.
        source: Its name, for messages.
        dtype: Name of the dtype that the checkpoint will have; None for the one in which most numbers are stored,
            float32 where they are in blocks.

    Raises:
        MissingExtraError: The `gguf` package is not installed.
        UnsupportedModelError: The file holds something that Seed-OSS has no place for; the message names it.
        CheckpointError: The file is not GGUF, truncated, damaged or over a limit.
        ConfigError: The sizes in the file do not go together.
    """
    header = read_gguf_header(file, source=source)
    check_readable(header)
    config = config_from_gguf(header, dtype=dtype or "float32", rope_factors=_rope_factors(file, header))
    config.validate()
    plan = tuple(plan_tensors(header, config))
    if dtype is None:
        _describe_storage(config, plan)
    return GGUFModel(header, config, _generation_config(header, config), plan)


def read_gguf_tokenizer(model: GGUFModel) -> GGUFTokenizer:
    """The tokenizer of the same file.

    Raises:
        UnsupportedModelError, CheckpointError, TokenizerError: See `tokenizer_from_gguf`; also where it has another
            number of tokens than the embedding has rows.
    """
    tokenizer = tokenizer_from_gguf(model.header, context_len=model.config.max_position_embeddings)
    if tokenizer.num_tokens != model.config.vocab_size:
        raise CheckpointError(
            f"{model.header.source}: the tokenizer has {tokenizer.num_tokens} tokens, "
            f"the embedding {model.config.vocab_size} rows"
        )
    return tokenizer


def _describe_storage(config: SeedOssConfig, plan: tuple[PlannedTensor, ...]) -> None:
    """Put into the config what the file's matrices are."""
    sizes: Counter[str] = Counter()
    for one in plan:
        if len(one.source.shape) == 2:
            sizes[one.source.type_name] += one.source.shape[0] * one.source.shape[1]
    most = sizes.most_common(1)[0][0]
    config.dtype = PLAIN_TYPES.get(most, "float32")
    if sizes.keys() - PLAIN_TYPES.keys():
        config.quantization_config = {"quant_method": "gguf"}


def _rope_factors(file: BinaryIO, header: GGUFHeader) -> np.ndarray | None:
    tensor = header.tensors.get(ROPE_FREQS)
    if tensor is None:
        return None
    if len(tensor.shape) != 1 or tensor.shape[0] > _MAX_ROPE_FACTORS:
        raise UnsupportedModelError(f"{header.source}: {ROPE_FREQS} has the shape {tensor.shape}")
    return next(read_pieces(file, tensor))[0]


def _generation_config(header: GGUFHeader, config: SeedOssConfig) -> GenerationConfig:
    # Sampling advice is written without do_sample, as in the released checkpoints: generation stays greedy until asked.
    fields: dict[str, Any] = {
        name: get_float(header, f"general.sampling.{key}")
        for key, name in _SAMPLING_KEYS.items()
        if f"general.sampling.{key}" in header.metadata
    }
    if "general.sampling.top_k" in header.metadata:
        fields["top_k"] = get_int(header, "general.sampling.top_k")
    ends = end_ids(header, config.vocab_size)
    return GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=list(ends) if len(ends) > 1 else next(iter(ends), None),
        pad_token_id=config.pad_token_id,
        **fields,
    )
