"""Every processor row by row: a row's scores do not depend on the batch around it, nor on what was asked before."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import seed_oss.generation as generation
from seed_oss.generation.processor_base import LogitsProcessor

Make = Callable[[torch.Tensor], Any]
"""From the lengths of the rows' padding, int64 `[batch]`, to a processor."""

PROCESSORS: dict[str, list[Make]] = {
    "DRYLogitsProcessor": [
        lambda pads: generation.DRYLogitsProcessor(0.8, allowed_length=1, prompt_ignore_length=pads),
        lambda pads: generation.DRYLogitsProcessor(2.0, dry_range=9, sequence_breakers=[3], prompt_ignore_length=pads),
    ],
    "EpsilonLogitsWarper": [lambda _: generation.EpsilonLogitsWarper(0.05)],
    "EtaLogitsWarper": [lambda _: generation.EtaLogitsWarper(0.2)],
    "ForcedBOSTokenLogitsProcessor": [lambda _: generation.ForcedBOSTokenLogitsProcessor(3)],
    "ForcedEOSTokenLogitsProcessor": [
        lambda _: generation.ForcedEOSTokenLogitsProcessor(15, [4, 5]),
        lambda _: generation.ForcedEOSTokenLogitsProcessor(16, 4),
    ],
    "FrequencyPresencePenaltyLogitsProcessor": [
        lambda _: generation.FrequencyPresencePenaltyLogitsProcessor(0.7, -0.3, 5)
    ],
    "LogitBiasLogitsProcessor": [lambda _: generation.LogitBiasLogitsProcessor({3: 2.5, 7: -100.0})],
    "LogitNormalization": [lambda _: generation.LogitNormalization()],
    "MinLengthLogitsProcessor": [lambda _: generation.MinLengthLogitsProcessor(20, [4, 5])],
    "MinNewTokensLengthLogitsProcessor": [lambda _: generation.MinNewTokensLengthLogitsProcessor(9, 7, 4)],
    "MinPLogitsWarper": [lambda _: generation.MinPLogitsWarper(0.2)],
    "NoBadWordsLogitsProcessor": [
        lambda pads: generation.NoBadWordsLogitsProcessor([[3], [0, 1], [2, 0, 1]], prompt_ignore_length=pads)
    ],
    "NoRepeatNGramLogitsProcessor": [
        lambda pads: generation.NoRepeatNGramLogitsProcessor(2, prompt_ignore_length=pads),
        lambda pads: generation.NoRepeatNGramLogitsProcessor(1, prompt_ignore_length=pads),
    ],
    "RepetitionPenaltyLogitsProcessor": [
        lambda pads: generation.RepetitionPenaltyLogitsProcessor(1.4, prompt_ignore_length=pads)
    ],
    "SequenceBiasLogitsProcessor": [
        lambda pads: generation.SequenceBiasLogitsProcessor({(0, 1): 2.0, (2,): -1.0}, prompt_ignore_length=pads)
    ],
    "SuppressTokensAtBeginLogitsProcessor": [lambda _: generation.SuppressTokensAtBeginLogitsProcessor([3, 4], 14)],
    "SuppressTokensLogitsProcessor": [lambda _: generation.SuppressTokensLogitsProcessor([3, 4])],
    "TemperatureLogitsWarper": [lambda _: generation.TemperatureLogitsWarper(0.7)],
    "TopKLogitsWarper": [lambda _: generation.TopKLogitsWarper(5)],
    "TopNSigmaLogitsWarper": [lambda _: generation.TopNSigmaLogitsWarper(1.0)],
    "TopPLogitsWarper": [lambda _: generation.TopPLogitsWarper(0.8), lambda _: generation.TopPLogitsWarper(0.3)],
    "TypicalLogitsWarper": [lambda _: generation.TypicalLogitsWarper(0.6)],
    "XTCLogitsWarper": [lambda _: generation.XTCLogitsWarper(0.05, 1.0, seed=3)],  # always; else chance is the row's
}


def test_every_processor_is_here() -> None:
    kinds = {name: getattr(generation, name) for name in generation.__all__}
    own = {name for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, LogitsProcessor)}
    assert set(PROCESSORS) == own - {"LogitsProcessor"}


@pytest.mark.parametrize("vocab_size", [30, 2500])
@pytest.mark.parametrize("name", PROCESSORS)
def test_a_row_is_the_same_alone(name: str, vocab_size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 6, (6, 14), generator=generator)
    scores = 3 * torch.randn(6, vocab_size, generator=generator)
    scores[1, 5:20] = -torch.inf
    scores[2] = scores[3]
    pads = torch.tensor([0, 3, 0, 5, 13, 1])
    before = ids.clone(), scores.clone()
    order = torch.tensor([4, 2, 0, 5, 3, 1])
    num_changed = 0
    for make in PROCESSORS[name]:
        processor = make(pads)
        together = processor(ids, scores)
        assert together.dtype == torch.float32
        assert torch.equal(processor(ids, scores), together)
        assert torch.equal(make(pads[order])(ids[order], scores[order]), together[order])
        for row in range(6):
            alone = make(pads[row : row + 1])(ids[row : row + 1], scores[row : row + 1])
            assert torch.equal(alone[0], together[row])
        num_changed += not torch.equal(together, scores)
        assert torch.equal(ids, before[0])
        assert torch.equal(scores, before[1])
    assert num_changed or name == "ForcedBOSTokenLogitsProcessor"  # which only changes the very first token
