"""Drawing tokens and the filters before it: the native forms against the readable ones, on every instruction set."""

import math

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from seed_oss.errors import InputError
from seed_oss.ops import sampling
from seed_oss.ops.native import INSTRUCTION_SETS, library, set_instruction_set, why_not
from seed_oss.ops.noise import gumbel_noise
from seed_oss.ops.sampling import (
    draw_rows,
    draw_rows_reference,
    fill_below_rows,
    fill_below_rows_reference,
    top_p_rows,
    top_p_rows_reference,
)

SIZES = (1, 5, 16, 63, 64, 65, 257, 1000, 5003)
KEY = (0x9E3779B9, 0x12345678)
ROUNDING = 2e-7  # of a mass of 1, in float32
pytestmark = pytest.mark.skipif(library() is None, reason=f"no native kernels: {why_not()}")


def available() -> list[str]:
    found: list[str] = []
    for name in INSTRUCTION_SETS if library() is not None else ():
        try:
            set_instruction_set(name)
        except InputError:
            continue
        found.append(name)
        set_instruction_set(None)
    return found


def random_rows(rows: int, cols: int, spread: float, seed: int = 0) -> Tensor:
    return spread * torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))


def hard_rows(cols: int) -> Tensor:
    """Flat, sharp, masked, tied, all equal, one peak, two clusters, steps of all sizes, deep ones behind a high one."""
    flat, sharp = random_rows(1, cols, 0.9), random_rows(1, cols, 6.0, 1)
    masked = flat.masked_fill(torch.rand(1, cols, generator=torch.Generator().manual_seed(2)) < 0.95, -math.inf)
    masked[0, cols // 2] = 1.0
    tied, equal, peak = (3 * flat).round() / 2, torch.full((1, cols), 2.5), flat.clone()
    peak[0, cols // 3] = 60.0
    clusters = torch.where(flat > 0, 1.0 + 1e-6 * sharp, 0.5)
    steps = -torch.logspace(-38, 2, cols)[None]
    signed = tied * -0.0
    return torch.cat((flat, sharp, masked, tied, equal, peak, clusters, steps, signed, sharp * 40, flat + 1e4))


def unusable_rows(cols: int) -> Tensor:
    rows = random_rows(4, cols, 1.0)
    rows[0, cols // 2] = rows[1, -1] = math.nan
    rows[2, cols // 3] = math.inf
    rows[3] = -math.inf
    return rows


def units_apart(scores: Tensor, key: tuple[int, int], first_row: int, index: int, one: Tensor, other: Tensor) -> Tensor:
    """How many units in the last place lie between the sums of two choices."""
    rows = torch.arange(first_row, first_row + scores.shape[0])
    sums = scores + gumbel_noise(key, rows, index, scores.shape[1])
    first, second = sums.gather(1, one[:, None]), sums.gather(1, other[:, None])
    largest = torch.maximum(scores.gather(1, one[:, None]).abs(), first.abs())
    return ((first - second).abs() / (torch.nextafter(largest, largest + 1) - largest)).squeeze(1)


class TestDraws:
    @pytest.mark.parametrize(("cols", "spread"), [(8, 1.0), (40, 0.0), (131, 2.0)])
    def test_many_draws(self, instructions: str, cols: int, spread: float) -> None:
        """20,000 draws of each kind: other tokens than the readable form's only between sums that all but tie."""
        for seed in range(4):
            scores = random_rows(5000, cols, spread, seed)
            drawn = draw_rows(scores, (seed, 99), 7, seed)
            wanted = draw_rows_reference(scores, (seed, 99), 7, seed)
            other = (drawn != wanted).nonzero().squeeze(1)
            assert len(other) <= 2
            assert bool((units_apart(scores, (seed, 99), 7, seed, drawn, wanted)[other] <= 8).all())

    @pytest.mark.parametrize("cols", SIZES)
    def test_odd_sizes_and_hard_rows(self, instructions: str, cols: int) -> None:
        scores = hard_rows(cols)
        for index in (0, 3, 2**31, 2**32 + 5):
            drawn, wanted = draw_rows(scores, KEY, 2, index), draw_rows_reference(scores, KEY, 2, index)
            near = units_apart(scores, KEY, 2, index, drawn, wanted) <= 8
            assert bool(((drawn == wanted) | near).all())
            assert int((drawn != wanted).sum()) <= 1

    @pytest.mark.parametrize("key", [(0, 0), (0xFFFFFFFF, 0xFFFFFFFF), (1, 0), (0, 1)])
    def test_keys(self, instructions: str, key: tuple[int, int]) -> None:
        scores = random_rows(50, 300, 1.0)
        assert torch.equal(draw_rows(scores, key, 0, 1), draw_rows_reference(scores, key, 0, 1))
        assert torch.equal(draw_rows(scores, key, 2**31, 1), draw_rows_reference(scores, key, 2**31, 1))

    def test_the_lowest_of_equal_sums(self, instructions: str) -> None:
        """Beside such scores all noise is rounded away."""
        scores = torch.full((1, 700), 3e9)
        scores[0, :130] = -math.inf
        assert draw_rows(scores, KEY, 0, 0).tolist() == [130]
        assert draw_rows_reference(scores, KEY, 0, 0).tolist() == [130]
        lowest = torch.full((1, 700), -torch.finfo(torch.float32).max)
        assert draw_rows(lowest, KEY, 0, 0).tolist() == [0]

    @pytest.mark.parametrize("cols", [5, 700])
    def test_no_usable_score(self, instructions: str, cols: int) -> None:
        rows = torch.cat((unusable_rows(cols), random_rows(1, cols, 1.0)))
        drawn = draw_rows(rows, KEY, 0, 0).tolist()
        assert drawn[:4] == [-1] * 4
        assert drawn == draw_rows_reference(rows, KEY, 0, 0).tolist()

    def test_entries_that_cannot_win_are_left_out_and_no_others(self, instructions: str) -> None:
        """A low entry wins now and then: with 0.0005 of the mass, in 40,000 draws."""
        scores = torch.full((40_000, 65), -40.0)
        scores[:, 0], scores[:, 64] = 0.0, math.log(0.0005)
        drawn = draw_rows(scores, KEY, 0, 0)
        assert 5 <= int((drawn == 64).sum()) <= 40
        assert torch.equal(drawn, draw_rows_reference(scores, KEY, 0, 0))

    def test_no_row_and_no_thread_changes_another(self) -> None:
        scores, before = random_rows(9, 5003, 1.0), torch.get_num_threads()
        torch.set_num_threads(3)
        together = draw_rows(scores, KEY, 4, 2)
        torch.set_num_threads(before)
        alone = [int(draw_rows(row[None], KEY, 4 + index, 2)) for index, row in enumerate(scores)]
        assert together.tolist() == alone


def check_nucleus(scores: Tensor, top_p: float, kept: Tensor) -> None:
    """The kept entries are the first ones from the highest on, higher ids first, and as many as the mass asks for."""
    order = [int(i) for i in scores.flip(0).argsort(descending=True, stable=True)]
    order = [len(scores) - 1 - i for i in order]
    ordered, mass = kept[order], scores.double().softmax(0)[order].cumsum(0)
    count = int(ordered.sum())
    assert count > 0
    assert bool(ordered[:count].all())
    before = float(mass[count - 2]) if count > 1 else 0.0
    assert before < top_p + ROUNDING or count == 1
    assert float(mass[count - 1]) >= top_p - ROUNDING


class TestTopP:
    @pytest.mark.parametrize("cols", SIZES)
    @pytest.mark.parametrize("top_p", [0.0, 1e-9, 0.3, 0.95, 0.999, 1 - 1e-6])
    def test_the_smallest_set(self, instructions: str, cols: int, top_p: float) -> None:
        scores = hard_rows(cols)
        result = top_p_rows(scores, top_p, fill=-1e30)
        kept = result != -1e30
        assert torch.equal(result, torch.where(kept, scores, -1e30))
        for row, one in zip(scores, kept, strict=True):
            check_nucleus(row, top_p, one)

    def test_equal_to_the_readable_form(self, instructions: str) -> None:
        """But for the border, where the readable form's sum of float32 can be off."""
        total = 0
        for seed in range(6):
            for spread in (0.3, 1.0, 2.0, 5.0):
                scores = random_rows(4, 3000, spread, seed)
                for top_p in (0.5, 0.9, 0.95):
                    ours, theirs = top_p_rows(scores, top_p), top_p_rows_reference(scores, top_p)
                    other = ours != theirs
                    assert int(other.sum(dim=1).max()) <= 1
                    total += int(other.sum())
        assert total <= 2

    def test_rows_without_a_number(self, instructions: str) -> None:
        rows = unusable_rows(500)
        for fill in (-math.inf, -99.0):
            assert torch.equal(top_p_rows(rows, 0.5, fill=fill)[:3].nan_to_num(5.0), rows[:3].nan_to_num(5.0))
            wanted = top_p_rows_reference(rows, 0.5, 1, fill)
            assert torch.equal(top_p_rows(rows, 0.5, fill=fill).nan_to_num(5.0), wanted.nan_to_num(5.0))

    def test_everything_or_several_at_least(self) -> None:
        scores = hard_rows(300)
        assert torch.equal(top_p_rows(scores, 1.0), top_p_rows_reference(scores, 1.0))
        assert torch.equal(top_p_rows(scores, 0.3, 7), top_p_rows_reference(scores, 0.3, 7))

    def test_no_row_and_no_thread_changes_another(self) -> None:
        scores, before = hard_rows(5003), torch.get_num_threads()
        torch.set_num_threads(3)
        together = top_p_rows(scores, 0.9)
        torch.set_num_threads(before)
        assert torch.equal(together, torch.cat([top_p_rows(row[None], 0.9) for row in scores]))

    def test_a_whole_vocabulary(self, instructions: str) -> None:
        scores = torch.cat((random_rows(1, 155_136, 1.0), random_rows(1, 155_136, 0.0), random_rows(1, 155_136, 4.0)))
        kept = top_p_rows(scores, 0.95) > -math.inf
        for row, one in zip(scores, kept, strict=True):
            check_nucleus(row, 0.95, one)

    def test_the_highest_alone(self) -> None:
        """From the best candidates, where there are no kernels."""
        for seed in range(20):
            scores = random_rows(3, 3000, 5.0, seed)
            removed = sampling._outside_small_nucleus(scores, 0.9, 1)
            assert removed is not None
            assert torch.equal(scores.masked_fill(removed, -math.inf), top_p_rows_reference(scores, 0.9))
        assert sampling._outside_small_nucleus(random_rows(2, 4000, 0.1), 0.9, 1) is None


@pytest.mark.parametrize("cols", SIZES)
def test_fill_below(instructions: str, cols: int) -> None:
    scores = torch.cat((hard_rows(cols), unusable_rows(cols)))
    limits = scores[:, cols // 2].contiguous()
    for fill in (-math.inf, -99.0):
        ours, theirs = fill_below_rows(scores, limits, fill), fill_below_rows_reference(scores, limits, fill)
        assert torch.equal(ours.nan_to_num(5.0), theirs.nan_to_num(5.0))


def on_the_border() -> list[Tensor]:
    """Nuclei whose mass is all but equal to what is asked for: the last bit of a weight decides."""
    kept: list[Tensor] = []
    for depth in torch.linspace(0.1, 8, 300).tolist():
        row, weight = torch.full((1, 21), -depth), math.exp(-depth)
        row[0, 4] = 0.0
        kept.append(top_p_rows(row, 1 - 7 * weight / (1 + 20 * weight)))
    return kept


def test_all_instruction_sets_say_the_same() -> None:
    scores = torch.cat((hard_rows(5003), random_rows(20, 5003, 1.0, 3)))
    results: list[tuple[Tensor, ...]] = []
    for name in available():
        set_instruction_set(name)
        kept = on_the_border()
        kept += [top_p_rows(scores, top_p) for top_p in (0.1, 0.5, 0.9, 0.95, 0.999)]
        results.append((*kept, *(draw_rows(scores, KEY, 0, index) for index in range(20))))
    set_instruction_set(None)
    for one in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(one, results[0], strict=True))


def test_rows_are_read_where_they_are() -> None:
    """Rows far apart, and columns that are not, or another dtype: those go to torch."""
    wide = hard_rows(700)
    for scores in (wide[:, 100:377], wide[::3], wide.T[:100], wide.double()):
        assert torch.equal(draw_rows(scores, KEY, 0, 0), draw_rows_reference(scores, KEY, 0, 0))
        for row, one in zip(scores, top_p_rows(scores, 0.6) > -math.inf, strict=True):
            check_nucleus(row.contiguous(), 0.6, one)


def test_a_graph_is_kept() -> None:
    scores = torch.randn(2, 9, requires_grad=True)
    assert top_p_rows(scores, 0.5).requires_grad
    assert fill_below_rows(scores, torch.zeros(2)).requires_grad


def test_no_rows() -> None:
    assert draw_rows(torch.empty(0, 9), KEY, 0, 0).shape == (0,)
    assert top_p_rows(torch.empty(0, 9), 0.5).shape == (0, 9)
    assert fill_below_rows(torch.empty(0, 9), torch.empty(0)).shape == (0, 9)


def test_as_library_ops() -> None:
    scores = random_rows(3, 40, 1.0)
    for op, arguments in (
        (torch.ops.seed_oss.draw_rows, (scores, *KEY, 0, 1)),
        (torch.ops.seed_oss.top_p_rows, (scores, 0.9, 1, -math.inf)),
        (torch.ops.seed_oss.fill_below_rows, (scores, torch.zeros(3), -math.inf)),
    ):
        torch.library.opcheck(op.default, arguments)


def test_compiled_in_one_graph() -> None:
    def step(scores: Tensor) -> Tensor:
        return draw_rows(top_p_rows(fill_below_rows(scores, scores.amin(dim=1)), 0.9), KEY, 0, 1)

    scores = random_rows(3, 40, 1.0)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(scores), step(scores))


def test_compiled_with_a_gradient() -> None:
    def weigh(scores: Tensor) -> Tensor:
        return top_p_rows(scores, 0.9, fill=0.0).sum()

    scores = random_rows(3, 40, 1.0).requires_grad_()
    torch.compile(weigh, fullgraph=True, backend="aot_eager")(scores).backward()
    assert scores.grad is not None
    assert torch.equal(scores.grad, (top_p_rows(scores, 0.9, fill=0.0) != 0).float())


def test_a_dispatch_mode_records_ops_and_reads_no_memory() -> None:
    with FakeTensorMode():
        scores = torch.empty(3, 300)
        found = draw_rows(scores, (1, 2), 0, 0), top_p_rows(scores, 0.9), fill_below_rows(scores, torch.empty(3))
    assert [tuple(one.shape) for one in found] == [(3,), (3, 300), (3, 300)]
    assert all(isinstance(one, FakeTensor) for one in found)
