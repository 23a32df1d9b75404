"""Packed rows of a model over a paged cache: single queries through the kernel, chunks through torch."""

import pytest
import torch
from torch import Tensor

from seed_oss import SeedOssModel
from seed_oss.cache import PackedRows, PackedSequence, PagedCache
from seed_oss.ops.triton import builder
from tests.factory import tiny_model
from tests.ops.triton_cases.model import names_in_use, use_kernels
from tests.packed import block_tables, run_rows, sequences_of

LENGTHS = (1, 20, 270, 33)


def step(
    model: SeedOssModel, dtype: torch.dtype, patch: pytest.MonkeyPatch | None, chosen: tuple[int, ...] = (0, 1, 2, 3)
) -> list[Tensor]:
    """Hidden states of one new token of each sequence, five of the fourth; on kernels where there is a patch."""
    ids = sequences_of([length + 5 for length in LENGTHS])
    cache = PagedCache(model.config, 40, 16, dtype)
    tables = block_tables(cache, [len(one) for one in ids], seed=1)
    before = [PackedSequence(0, length, table) for length, table in zip(LENGTHS, tables, strict=True)]
    run_rows(model, cache, ids, PackedRows(tuple(before)))
    if patch is not None:
        use_kernels(patch)
    counts = (1, 1, 1, 5)
    rows = [PackedSequence(LENGTHS[index], counts[index], tables[index]) for index in chosen]
    return run_rows(model, cache, [ids[index] for index in chosen], PackedRows(tuple(rows)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8, torch.bfloat16], ids=str)
def test_same_numbers_as_torch(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    model = tiny_model(SeedOssModel, max_position_embeddings=512, num_hidden_layers=1)
    wanted = step(model, dtype, None)
    for found, one in zip(step(model, dtype, monkeypatch), wanted, strict=True):
        torch.testing.assert_close(found, one, atol=1e-4, rtol=1e-4)
    assert "pages" in names_in_use()
    assert not builder().failures


def test_a_row_does_not_depend_on_who_else_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(SeedOssModel, max_position_embeddings=512, num_hidden_layers=1)
    with monkeypatch.context() as patch:
        together = step(model, torch.float32, patch)
    for index in (1, 3):
        with monkeypatch.context() as patch:
            assert torch.equal(step(model, torch.float32, patch, (index,))[0], together[index])
