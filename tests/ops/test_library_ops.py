"""The native operations as torch library ops: each against its readable form, through torch's own checks of ops, and
recorded by a compiler and by a dispatch mode."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from seed_oss.errors import CheckpointError, InputError
from seed_oss.nn.fused import FusedRMSNorm
from seed_oss.ops.activations import silu_mul, silu_mul_reference
from seed_oss.ops.cached_attention import (
    attend_cached,
    attend_cached_reference,
    rotate_and_write,
    rotate_and_write_reference,
)
from seed_oss.ops.grouped_weight import QuantFormat
from seed_oss.ops.logits import argmax_rows, log_sum_exp_rows, top_k_rows
from seed_oss.ops.native import instruction_set
from seed_oss.ops.norm import add_rms_norm, add_rms_norm_reference
from seed_oss.ops.packing import pack
from seed_oss.ops.quantized import quantized_embedding, quantized_linear, round_rows, round_rows_reference
from seed_oss.ops.sampling import fill_below_rows  # noqa: F401 - registers its op
from tests.ops.test_packing import random_weight

OPS: Any = torch.ops.seed_oss
FORMAT = QuantFormat(4, 32)
FIELDS = (FORMAT.bits, FORMAT.group_size, FORMAT.zero, FORMAT.param_dtype)
PACKED = pack(random_weight(FORMAT, 40, 64))
CACHES = (torch.bfloat16, torch.float32, torch.int8)
RELATIVE = {torch.float32: 3e-6, torch.bfloat16: 2**-7}


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def is_close(found: Tensor, wanted: Tensor, dtype: torch.dtype = torch.float32) -> bool:
    distance = (found.double() - wanted.double()).abs().max()
    return found.dtype == wanted.dtype and bool(distance <= RELATIVE[dtype] * max(1.0, float(wanted.abs().max())))


class Cached(NamedTuple):
    """A cache with numbers everywhere."""

    keys: Tensor
    values: Tensor
    key_scales: Tensor | None
    value_scales: Tensor | None

    def clone(self) -> "Cached":
        return Cached(*(None if one is None else one.clone() for one in self))  # type: ignore[arg-type]


def cache_of(num_blocks: int, kv_heads: int, block_len: int, head_dim: int, dtype: torch.dtype) -> Cached:
    shape = (num_blocks, kv_heads, block_len, head_dim)
    numbers = [normal(*shape, seed=seed) for seed in (1, 2)]
    if dtype != torch.int8:
        return Cached(*(one.to(dtype) for one in numbers), None, None)
    rounded = [round_rows_reference(one.flatten(0, 2), head_dim) for one in numbers]
    return Cached(*(one.view(shape) for one, _ in rounded), *(scale.view(shape[:3]) for _, scale in rounded))


def blocks_of_16(rows: Tensor) -> Tensor:
    """Memory `[rows, kv_heads, length, ..]` as blocks of 16 tokens."""
    return rows.unflatten(2, (-1, 16)).transpose(1, 2).flatten(0, 1)


def new_tokens(num_tokens: int, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Queries, keys, values, cosines and sines."""
    angles = normal(num_tokens, head_dim // 2, seed=6).repeat(1, 2)
    states = (normal(num_tokens, count, head_dim, seed=3, dtype=dtype) for count in (heads, kv_heads, kv_heads))
    return *states, angles.cos().to(dtype), angles.sin().to(dtype)


def sequences_of(parts: list[tuple[int, int]], block_len: int) -> tuple[Tensor, Tensor, Tensor]:
    """Block table, starts and lengths of (cached, new) tokens; a block has one owner, and wrong ones follow behind."""
    starts, lengths = torch.tensor(parts).unbind(1)
    needed = -(-(starts + lengths) // block_len)
    order = torch.randperm(int(needed.sum()), generator=torch.Generator().manual_seed(5)).split(needed.tolist())
    table = torch.full((len(parts), int(needed.max())), -1)
    for row, blocks in zip(table, order, strict=True):
        row[: len(blocks)] = blocks
    return table, starts.contiguous(), lengths.contiguous()


@pytest.mark.parametrize("rows", [1, 5, 8, 9])
@pytest.mark.parametrize("dtype", list(RELATIVE), ids=str)
def test_linear_rows(instructions: str, dtype: torch.dtype, rows: int) -> None:
    x, weight, bias = (
        normal(rows, 77, dtype=dtype),
        normal(45, 77, seed=1, dtype=dtype),
        normal(45, seed=2, dtype=dtype),
    )
    for one in (bias, None):
        wanted = x.double() @ weight.double().T + (0 if one is None else one.double())
        assert is_close(OPS.linear_rows(x, weight, one), wanted.to(dtype), dtype)


@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (2, 5, 96)])
def test_norms_and_gate(instructions: str, shape: tuple[int, ...]) -> None:
    x, added, weight = normal(*shape), normal(*shape, seed=1), normal(shape[-1], seed=2)
    total, normed = add_rms_norm(x, added, weight, 1e-6)
    wanted = add_rms_norm_reference(x.double(), added.double(), weight.double(), 1e-6)
    assert is_close(total, wanted[0].float())
    assert is_close(normed, wanted[1].float())
    assert torch.equal(normed, OPS.rms_norm(total, weight, 1e-6))
    assert is_close(silu_mul(x, added), silu_mul_reference(x.double(), added.double()).float())


@pytest.mark.parametrize(("columns", "group"), [(64, 32), (40, 40), (12, 4)])
def test_rows_in_8_bits(instructions: str, columns: int, group: int) -> None:
    x = normal(7, columns)
    (integers, scale), (wanted, wanted_scale) = round_rows(x, group), round_rows_reference(x, group)
    assert torch.allclose(scale, wanted_scale, rtol=1e-6, atol=0)
    assert int((integers.int() - wanted.int()).abs().max()) <= 1  # on the edge between two integers


@pytest.mark.parametrize("kind", CACHES, ids=str)
@pytest.mark.parametrize("dtype", list(RELATIVE), ids=str)
def test_rotation_and_cache_write(instructions: str, kind: torch.dtype, dtype: torch.dtype) -> None:
    new, cache = new_tokens(5, 6, 2, 48, dtype), cache_of(4, 2, 16, 48, kind)
    before = cache.clone()
    slots, expected = torch.tensor([63, 0, 17, 16, 40]), cache.clone()
    wanted = rotate_and_write_reference(*new, slots, *expected)  # type: ignore[call-arg]
    assert is_close(rotate_and_write(*new, slots, *cache), wanted, dtype)
    for one, other in zip(cache, expected, strict=True):
        if one is not None and other is not None:
            steps = (
                1.0
                if one.dtype == torch.int8
                else 8 * RELATIVE[dtype if one.dtype == torch.float32 else torch.bfloat16]
            )
            assert float((one.float() - other.float()).abs().max()) <= steps
    changed = (cache.keys != before.keys).any(-1).nonzero()[:, [0, 2]]
    assert {int(block * 16 + place) for block, place in changed} == set(slots.tolist())


PARTS = [[(0, 1)], [(300, 1), (0, 1), (255, 1), (15, 1)], [(0, 40), (17, 1), (250, 13), (511, 2)]]
CHUNK = 256  # keys whose weights have one maximum
NEAR = 4e-6  # how far a weight in fp32 may be off before it is rounded to bf16


def attended_in_pairs(query: Tensor, cache: Cached, starts: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """What attention comes to if scaled queries and the weights of keys are rounded to bf16, and how far it may be off.

    Args:
        query: of one token per sequence, `[num_sequences, heads, head_dim]`.
        cache: in bf16.
        starts: keys before the token.
        table: blocks of 16 keys.
    """
    found, most = torch.empty(query.shape, dtype=torch.float64), torch.empty(query.shape, dtype=torch.float64)
    factor = torch.tensor(query.shape[2] ** -0.5, dtype=torch.float32)
    rounded = (query.float() * factor).bfloat16().double().unflatten(1, (cache.keys.shape[1], -1))
    for row, (start, blocks) in enumerate(zip(starts.tolist(), table, strict=True)):
        chosen = blocks[: start // 16 + 1]
        key, value = (one[chosen].transpose(0, 1).flatten(1, 2)[:, : start + 1].double() for one in cache[:2])
        scores = rounded[row] @ key.mT
        top = torch.cat([one.amax(-1, keepdim=True).expand_as(one) for one in scores.split(CHUNK, -1)], -1)
        weights, own = (scores - top).exp(), (top - scores.amax(-1, keepdim=True)).exp()
        low, mid, high = ((weights * by).float().bfloat16().double() * own for by in (1 - NEAR, 1, 1 + NEAR))
        total = mid.sum(-1, keepdim=True)
        attended, doubt = mid @ value / total, high - low  # of weights between two numbers of bf16
        found[row] = attended.flatten(0, 1)
        change = doubt @ value.abs() + doubt.sum(-1, keepdim=True) * attended.abs()
        most[row] = (change / total).flatten(0, 1) + 3e-6
    return found, most


def is_as_read(found: Tensor, query: Tensor, cache: Cached, table: Tensor, starts: Tensor, lengths: Tensor) -> bool:
    """Whether attention came to what its readable form does, or, in pairs of bf16, to that with what these round."""
    in_pairs = cache.keys.dtype == torch.bfloat16 and instruction_set() in ("avx512_bf16", "amx")
    if not in_pairs:
        return is_close(found, attend_cached_reference(query, *cache, table, starts, lengths))
    each = torch.cat([torch.arange(start, start + n) for start, n in zip(starts, lengths, strict=True)])
    wanted, most = attended_in_pairs(query, cache, each, table.repeat_interleave(lengths, 0))
    return found.dtype == torch.float32 and bool(((found.double() - wanted).abs() <= most).all())


def test_how_far_pairs_of_bfloat16_may_be_off() -> None:
    """That what is rounded is the difference between the two readable forms, and no more."""
    table, starts, lengths = sequences_of([(300, 1), (40, 1)], 16)
    cache, query = cache_of(int(table.max()) + 1, 2, 16, 64, torch.bfloat16), normal(2, 6, 64)
    plain = attend_cached_reference(query, *cache, table, starts, lengths)
    wanted, most = attended_in_pairs(query, cache, starts, table)
    assert float((wanted - plain).abs().max()) < 2**-7 * float(plain.abs().max())
    assert float(most.mean()) < 1e-4


@pytest.mark.parametrize("kind", CACHES, ids=str)
@pytest.mark.parametrize("parts", PARTS, ids=str)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 4, 16), (10, 2, 48), (5, 1, 128)])
def test_attention_over_pages(
    instructions: str, kind: torch.dtype, parts: list[tuple[int, int]], heads: int, kv_heads: int, head_dim: int
) -> None:
    table, starts, lengths = sequences_of(parts, 16)
    cache = cache_of(int(table.max()) + 1, kv_heads, 16, head_dim, kind)
    query = normal(int(lengths.sum()), heads, head_dim)
    found = attend_cached(query, *cache, table, starts, lengths)
    assert is_as_read(found, query, cache, table, starts, lengths)
    rounded = attend_cached(query.bfloat16(), *cache, table, starts, lengths)
    assert is_close(rounded, attend_cached_reference(query.bfloat16(), *cache, table, starts, lengths), torch.bfloat16)


@pytest.mark.parametrize("kind", CACHES, ids=str)
def test_a_contiguous_cache_is_one_block_for_each_row(instructions: str, kind: torch.dtype) -> None:
    cache, table = cache_of(3, 2, 304, 32, kind), torch.arange(3)[:, None]
    starts, lengths = torch.tensor([300, 0, 77]), torch.tensor([1, 5, 1])
    query = normal(7, 6, 32)
    found = attend_cached(query, *cache, table, starts, lengths)
    in_blocks = Cached(*(None if one is None else blocks_of_16(one) for one in cache))  # type: ignore[arg-type]
    assert is_as_read(found, query, in_blocks, torch.arange(57).view(3, 19), starts, lengths)


def test_a_row_has_the_same_bits_in_any_batch(instructions: str) -> None:
    table, starts, lengths = sequences_of([(300, 1), (0, 40), (17, 1), (599, 3)], 16)
    cache, query = cache_of(int(table.max()) + 1, 2, 16, 32, torch.bfloat16), normal(45, 6, 32)
    whole = attend_cached(query, *cache, table, starts, lengths).split(lengths.tolist())
    for row, part in enumerate(query.split(lengths.tolist())):
        one = slice(row, row + 1)
        assert torch.equal(attend_cached(part, *cache, table[one], starts[one], lengths[one]), whole[row])


def test_memory_that_the_kernels_do_not_know_goes_to_torch() -> None:
    """Blocks of 7 tokens, heads of 24, tokens before heads."""
    for block_len, head_dim, is_turned in ((7, 16, False), (16, 24, False), (16, 16, True)):
        table, starts, lengths = sequences_of([(20, 2)], block_len)
        cache = cache_of(int(table.max()) + 1, 2, block_len, head_dim, torch.float32)
        if is_turned:
            cache = Cached(*(one.transpose(1, 2).contiguous().transpose(1, 2) for one in cache[:2]), None, None)
        query = normal(2, 4, head_dim)
        wanted = attend_cached_reference(query, *cache, table, starts, lengths)
        assert torch.equal(attend_cached(query, *cache, table, starts, lengths), wanted)


def test_what_does_not_fit() -> None:
    cache, new = cache_of(4, 2, 16, 16, torch.float32), new_tokens(2, 4, 2, 16, torch.float32)
    table, starts, lengths = torch.tensor([[0, 1]]), torch.tensor([20]), torch.tensor([2])
    attend = partial(attend_cached, new[0], *cache)
    wrong: dict[str, Callable[[], object]] = {
        "a slot lies outside": lambda: rotate_and_write(*new, torch.tensor([0, 64]), *cache),
        "slot_mapping is": lambda: rotate_and_write(*new, torch.tensor([0]), *cache),
        "int8 ones, and no others": lambda: attend_cached(
            new[0], *cache_of(4, 2, 16, 16, torch.int8)[:2], None, None, table, starts, lengths
        ),
        "heads or head_dim misfit": lambda: attend_cached(new[0][:, :3], *cache, table, starts, lengths),
        "a block lies outside": lambda: attend(torch.tensor([[0, 4]]), starts, lengths),
        "a sequence needs 2": lambda: attend(table[:, :1], starts, lengths),
        "add up to 2 queries": lambda: attend(table, starts, torch.tensor([1])),
        "must be int64": lambda: attend(table.int(), starts, lengths),
        "make them equal": lambda: silu_mul(new[0], new[1]),
        "in whole groups of 3": lambda: round_rows(normal(2, 16), 3),
    }
    for message, call in wrong.items():
        with pytest.raises(InputError, match=message):
            call()


def arguments() -> dict[str, tuple[Any, ...]]:
    """Name of each op to what it may be called with."""
    table, starts, lengths = sequences_of([(20, 2), (5, 1)], 16)
    return {
        "quantized_linear": (normal(3, 64), PACKED, normal(40), [40, 64], *FIELDS),
        "quantized_embedding": (torch.tensor([[3, 39]]), PACKED, [40, 64], *FIELDS),
        "linear_rows": (normal(2, 3, 64), normal(40, 64), normal(40)),
        "round_rows": (normal(3, 64), 32),
        "rms_norm": (normal(2, 3, 64), normal(64), 1e-6),
        "add_rms_norm": (normal(2, 3, 64), normal(2, 3, 64, seed=1), normal(64), 1e-6),
        "silu_mul": (normal(3, 33), normal(3, 33, seed=1)),
        "argmax_rows": (normal(3, 300),),
        "top_k_rows": (normal(3, 300), 5),
        "log_sum_exp_rows": (normal(3, 300),),
        "attend_cached": (normal(3, 4, 16), *cache_of(3, 2, 16, 16, torch.int8), table, starts, lengths),
        "rotate_and_write": (
            *new_tokens(3, 4, 2, 16, torch.float32),
            torch.tensor([47, 0, 17]),
            *cache_of(3, 2, 16, 16, torch.int8),
        ),
    }


@pytest.mark.parametrize("name", arguments())
def test_torchs_own_checks(name: str) -> None:
    """Schema, what is written to, fake results, and traces with symbols for sizes."""
    torch.library.opcheck(getattr(OPS, name).default, arguments()[name])


@pytest.mark.parametrize("name", arguments())
def test_compiled(name: str) -> None:
    torch.compiler.reset()
    given, again = arguments()[name], arguments()[name]
    compiled = torch.compile(lambda *given: getattr(OPS, name)(*given), fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        found, wanted = compiled(*given), getattr(OPS, name)(*again)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    for one, other in zip(given, again, strict=True):  # what it writes to
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


def recorded(function: Callable[..., Any], *given: Any) -> set[str]:
    """Names of our ops in the trace of a function."""
    with torch.no_grad():
        nodes = make_fx(function, tracing_mode="fake")(*given).graph.nodes
    return {str(node.target).split(".")[1] for node in nodes if str(node.target).startswith("seed_oss.")}


def test_functions_are_recorded_as_ops() -> None:
    logits, ids = normal(3, 300), torch.tensor([1, 2])
    norm = FusedRMSNorm(64, 1e-6).requires_grad_(False)
    assert recorded(argmax_rows, logits) == {"argmax_rows"}
    assert recorded(lambda x: top_k_rows(x, 4), logits) == {"top_k_rows"}
    assert recorded(log_sum_exp_rows, logits) == {"log_sum_exp_rows"}
    assert recorded(lambda x, w: quantized_linear(x, w, FORMAT, (40, 64)), normal(2, 64), PACKED) == {
        "quantized_linear"
    }
    assert recorded(lambda x, w: quantized_embedding(x, w, FORMAT, (40, 64)), ids, PACKED) == {"quantized_embedding"}
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert norm(torch.empty(2, 64)).shape == (2, 64)
        assert argmax_rows(torch.empty(3, 300)).dtype == torch.int64


def test_compiled_functions_have_the_bits_of_eager_ones() -> None:
    logits, norm = normal(3, 300), FusedRMSNorm(300, 1e-6).requires_grad_(False)

    def run(x: Tensor) -> tuple[Tensor, ...]:
        return (
            argmax_rows(x),
            *top_k_rows(x, 7),
            log_sum_exp_rows(norm(x)),
            quantized_embedding(argmax_rows(x[:, :40]), PACKED, FORMAT, (40, 64)),
        )

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(logits), run(logits), rtol=0, atol=0)


def test_a_gradient_takes_torch_while_compiling() -> None:
    logits = normal(2, 30).requires_grad_()
    torch.compile(log_sum_exp_rows, fullgraph=True, backend="aot_eager")(logits).sum().backward()
    torch.testing.assert_close(logits.grad, logits.detach().softmax(-1))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("top_k_rows", (torch.zeros(2, 3), 4)),
        ("top_k_rows", (torch.zeros(2, 3), -1)),
        ("top_k_rows", (torch.zeros(2, 3), 2**40)),
        ("fill_below_rows", (torch.zeros(2, 3), torch.zeros(0), 0.0)),
        ("fill_below_rows", (torch.zeros(200, 3), torch.zeros(1), 0.0)),
        ("rms_norm", (torch.zeros(2, 3), torch.zeros(0), 1e-6)),
        ("rms_norm", (torch.zeros(2, 64), torch.zeros(2), 1e-6)),
        ("linear_rows", (torch.zeros(64), torch.zeros(64), None)),
        ("linear_rows", (torch.zeros(0), torch.zeros(0), None)),
        ("linear_rows", (torch.zeros(2, 3), torch.zeros(4, 5), None)),
        ("linear_rows", (torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(3))),
    ],
)
def test_what_does_not_fit_together_is_refused(name: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises((InputError, RuntimeError)):
        getattr(torch.ops.seed_oss, name)(*arguments)


@pytest.mark.parametrize("packed", [PACKED[:-1], PACKED[:0], PACKED.float()])
def test_a_packed_weight_of_another_size_is_not_read(packed: Tensor) -> None:
    with pytest.raises(CheckpointError):
        OPS.quantized_linear(normal(2, 64), packed, None, [40, 64], *FIELDS)
    with pytest.raises(CheckpointError):
        OPS.quantized_embedding(torch.tensor([39]), packed, [40, 64], *FIELDS)


@pytest.mark.parametrize("bias", [normal(39), normal(40, dtype=torch.bfloat16)])
def test_a_bias_of_another_size_is_not_read(bias: Tensor) -> None:
    with pytest.raises(InputError, match=r"give fp32 \[40\]"):
        OPS.quantized_linear(normal(2, 64), PACKED, bias, [40, 64], *FIELDS)


def test_a_packed_weight_may_lie_with_gaps() -> None:
    x, gaps = normal(2, 64), PACKED.repeat_interleave(2)[::2]
    wanted = OPS.quantized_linear(x, PACKED, None, [40, 64], *FIELDS)
    assert torch.equal(OPS.quantized_linear(x, gaps, None, [40, 64], *FIELDS), wanted)
    ids = torch.tensor([0, 39])
    wanted = OPS.quantized_embedding(ids, PACKED, [40, 64], *FIELDS)
    assert torch.equal(OPS.quantized_embedding(ids, gaps, [40, 64], *FIELDS), wanted)
