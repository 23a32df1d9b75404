"""Whether results here do not depend on what else is in a batch, looked at once when an engine starts."""

import torch
from torch import Tensor

from seed_oss.engine.batch import RowKey, ScheduledBatch, ScheduledRow
from seed_oss.engine.blocks import BlockPool
from seed_oss.engine.forward import Forward, PackedModel, RowTraits

_LENGTHS = (1, 2, 19)  # one token, a few, and more than the products take at a time


@torch.inference_mode()
def is_batch_invariant(model: PackedModel, pool: BlockPool, vocab_size: int, adapter: str | None = None) -> bool:
    """Run three short prompts alone and together, and compare bits.

    Args:
        model: to check; the blocks it writes to are free before and after.
        pool: with all blocks free.
        vocab_size: of the model.
        adapter: name of the adapter that they run through, or None.
    """
    needed = [pool.num_blocks_for(length) for length in _LENGTHS]
    if sum(needed) > pool.num_free:
        return True  # too small for two rows at a time
    free = iter(pool.free_ids)
    rows = [
        ScheduledRow(
            RowKey("self-check", index),
            0,
            tuple((7 * index + 3 * token) % vocab_size for token in range(length)),
            0,
            tuple(next(free) for _ in range(count)),
            True,
        )
        for index, (length, count) in enumerate(zip(_LENGTHS, needed, strict=True))
    ]
    traits = [RowTraits(length, adapter) for length in _LENGTHS]
    by_itself = [model.run(ScheduledBatch((row,)), [one]) for row, one in zip(rows, traits, strict=True)]
    together = model.run(ScheduledBatch(tuple(rows)), traits)
    return torch.equal(torch.cat(list(map(_all_logits, by_itself))), _all_logits(together))


def _all_logits(forward: Forward) -> Tensor:
    return forward.logits(range(len(forward.hidden)))
