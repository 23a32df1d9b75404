"""Norm and rotation against the readable forms."""

import pytest
import torch

from seed_oss.ops.norm import rms_norm as wanted_norm
from seed_oss.ops.rope import apply_rope, cos_sin
from seed_oss.ops.triton.norm import add_rms_norm, rms_norm
from seed_oss.ops.triton.rope import rotate

RELATIVE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
DTYPES = list(RELATIVE)


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 3) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def is_close(out: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype) -> bool:
    return torch.allclose(out.float(), wanted.float(), rtol=RELATIVE[dtype], atol=RELATIVE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5, 48), (2, 64), (2, 0, 16), (1, 5120)])
def test_norm(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x, residual, weight = normal(*shape, dtype=dtype), normal(*shape, dtype=dtype, seed=4), normal(shape[-1], seed=5)
    for one in (weight, weight.to(dtype)):
        out, wanted = rms_norm(x, one, 1e-6), wanted_norm(x, one, 1e-6)
        assert out.dtype == wanted.dtype
        assert is_close(out, wanted, dtype)
        added, out = add_rms_norm(x, residual, one, 1e-6)
        assert added.dtype == dtype
        assert is_close(added, x + residual, dtype)
        assert is_close(out, wanted_norm(added, one, 1e-6), dtype)


def test_norm_of_what_is_not_contiguous_and_of_no_number() -> None:
    x = normal(16, 6).T
    x[2, 3] = float("nan")
    out = rms_norm(x, torch.ones(16), 1e-6)
    assert out[2].isnan().all()
    kept = [0, 1, 3, 4, 5]
    assert is_close(out[kept], wanted_norm(x[kept], torch.ones(16), 1e-6), torch.float32)
    assert torch.equal(rms_norm(torch.zeros(2, 16), torch.ones(16), 1e-6), torch.zeros(2, 16))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("batch", "heads", "kv_heads", "length", "head_dim"), [(1, 1, 1, 1, 2), (2, 3, 1, 4, 24), (2, 10, 1, 1, 128)]
)
@pytest.mark.parametrize("is_shared", [True, False])
def test_rotation(
    dtype: torch.dtype, batch: int, heads: int, kv_heads: int, length: int, head_dim: int, is_shared: bool
) -> None:
    query = normal(batch, length, heads, head_dim, dtype=dtype).transpose(1, 2)
    key = normal(batch, length, kv_heads, head_dim, dtype=dtype, seed=4).transpose(1, 2)
    positions = torch.arange(length)[None] + torch.arange(1 if is_shared else batch)[:, None] * 3
    cos, sin = cos_sin(positions, torch.rand(head_dim // 2), 1.1, dtype)
    before = query.clone()
    for in_place in (False, True):
        wanted = apply_rope(query, cos, sin), apply_rope(key, cos, sin)
        out = rotate(query, key, cos, sin, in_place=in_place)
        for one, other in zip(out, wanted, strict=True):
            assert one.dtype == dtype
            assert is_close(one, other, dtype)
        assert torch.equal(query, before) != in_place or length == 1


def test_rotation_of_parts_of_one_tensor() -> None:
    """Queries and keys as slices of a joined projection, whose rows are longer than they are."""
    both = normal(2, 3, 5 * 16).unflatten(-1, (5, 16)).transpose(1, 2)
    query, key = both[:, :4], both[:, 4:]
    cos, sin = cos_sin(torch.arange(3)[None], torch.rand(8), 1.0, torch.float32)
    out = rotate(query, key, cos, sin)
    assert is_close(out[0], apply_rope(query, cos, sin), torch.float32)
    assert is_close(out[1], apply_rope(key, cos, sin), torch.float32)
