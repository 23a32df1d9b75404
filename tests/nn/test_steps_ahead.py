"""Several tokens of each row in one step: those of as many steps, and no more than is asked for."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from seed_oss import LLM, SamplingParams, SeedOssForCausalLM, quantize_
from seed_oss.cache import PagedCache, PagedContext
from seed_oss.engine.packed_model import PagedModel
from seed_oss.engine.stride import Stride
from seed_oss.nn.fused import fuse_
from seed_oss.nn.fused_step import FusedStep
from seed_oss.nn.told_step import Ahead
from seed_oss.ops.logits import NO_TOKEN
from seed_oss.ops.native import library, why_not
from tests.factory import random_ids, tiny_model
from tests.nn.test_fused_step import SHAPE, rows_at, step_of

pytestmark = pytest.mark.skipif(library() is None, reason=f"no native kernels: {why_not()}")


@pytest.fixture
def model() -> Any:
    return fuse_(quantize_(tiny_model(SeedOssForCausalLM, **SHAPE), "int8"))


SEVEN = Ahead(7)


@pytest.mark.parametrize("starts", [[5], [3, 14, 0]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_steps_ahead_have_the_bits_of_steps_one_by_one(model: Any, starts: list[int], dtype: torch.dtype) -> None:
    tables = [tuple(range(3 * row, 3 * row + 3)) for row in range(len(starts))]
    caches = [PagedCache(model.config, 9, 16, dtype) for _ in range(2)]
    mine, other = (FusedStep.of(model, model.model, model.lm_head) for _ in range(2))
    assert mine is not None
    assert other is not None
    tokens, singly = random_ids(1, len(starts))[0].tolist(), list[Any]()
    with torch.no_grad():
        for _ in range(2):  # of which the second is told already
            ahead = mine.run_packed(tokens, PagedContext(caches[0], rows_at(starts, tables)), SEVEN)
            assert ahead is not None
            singly.clear()
            for number in range(8):
                places = [start + number for start in starts]
                said = singly[-1].best if singly else tokens
                singly.append(other.run_packed(said, PagedContext(caches[1], rows_at(places, tables))))
            assert ahead.before == [one.best for one in singly[:-1]]
            assert (ahead.best, ahead.lost) == (singly[-1].best, None)
            assert torch.equal(ahead.logits, singly[-1].logits)
            assert torch.equal(ahead.hidden, singly[-1].hidden)
            starts, tokens = [start + 8 for start in starts], ahead.best
    for ours, theirs in zip(caches[0].rooms, caches[1].rooms, strict=True):
        assert torch.equal(ours.keys, theirs.keys)
        assert torch.equal(ours.values, theirs.values)


def test_steps_ahead_end_where_blocks_end(model: Any) -> None:
    cache, step = PagedCache(model.config, 4, 16, torch.float32), step_of(model)
    kept = [room.keys[2:].clone() for room in cache.rooms]
    with torch.no_grad():
        for start, count in ((27, 4), (30, 1), (31, 0), (3, 7)):
            found = step.run_packed([5], PagedContext(cache, rows_at([start], [(0, 1)])), SEVEN)
            assert found is not None
            assert len(found.before) == count
        both = step.run_packed([5, 6], PagedContext(cache, rows_at([12, 3], [(0,), (1,)])), SEVEN)
    assert both is not None
    assert len(both.before) == 3
    assert all(torch.equal(room.keys[2:], keys) for room, keys in zip(cache.rooms, kept, strict=True))


@pytest.mark.parametrize(("start", "count"), [(253, 7), (32_765, 2), (32_769, 0)])
def test_steps_ahead_end_where_angles_do(model: Any, start: int, count: int) -> None:
    """They are in tables of 256, and in none beyond 32,768."""
    table = tuple(range(-(-(start + 16) // 16)))
    caches, step = [PagedCache(model.config, len(table), 16, torch.float32) for _ in range(2)], step_of(model)
    with torch.no_grad():
        found = step.run_packed([5], PagedContext(caches[0], rows_at([start], [table])), SEVEN)
        assert found is not None
        tokens, singly = [5], list[list[int]]()
        for number in range(len(found.before) + 1):
            one = step_of(model).run_packed(tokens, PagedContext(caches[1], rows_at([start + number], [table])))
            assert one is not None
            tokens = one.best
            singly.append(tokens)
        assert torch.equal(found.logits, one.logits)
    assert [*found.before, found.best] == singly
    assert len(found.before) == count


@pytest.mark.parametrize("field", ["_lost", "_best"])
def test_steps_ahead_end_with_the_first_that_is_no_number(
    model: Any, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the others there is what they have got so far."""
    step, context = (
        step_of(model),
        PagedContext(PagedCache(model.config, 2, 16, torch.float32), rows_at([1, 2], [(0,), (1,)])),
    )
    with torch.no_grad():
        expected = step.run_packed([5, 6], context, SEVEN)
    native, count = library(), 0
    assert expected is not None
    assert native is not None

    class Spoiling:
        def so_step(self, call: Any) -> int:
            nonlocal count
            count += 1
            num_known = native.so_step(call)
            if count == 4:
                getattr(step._told, field)[1] = {"_lost": 1, "_best": NO_TOKEN}[field]
            return num_known

    monkeypatch.setattr("seed_oss.nn.told_step.library", Spoiling)
    with torch.no_grad():
        found = step.run_packed([5, 6], context, SEVEN)
    assert found is not None
    assert (count, found.before, found.best, found.lost) == (4, expected.before[:2], expected.before[2], None)


def test_steps_ahead_end_with_a_token_that_ends_a_row(model: Any) -> None:
    cache, step = PagedCache(model.config, 2, 16, torch.float32), step_of(model)
    context = PagedContext(cache, rows_at([1, 2], [(0,), (1,)]))
    with torch.no_grad():
        whole = step.run_packed([5, 6], context, SEVEN)
        assert whole is not None
        rows = [[one[row] for one in (*whole.before, whole.best)] for row in range(2)]
        for row in range(2):
            for place in range(8):
                ends = [frozenset[int](), frozenset[int]()]
                ends[row] = frozenset((rows[row][place],))
                found = step.run_packed([5, 6], context, Ahead(7, ends))
                assert found is not None
                first = rows[row].index(rows[row][place])
                assert [*found.before, found.best] == [*whole.before, whole.best][: first + 1]


@pytest.fixture
def eager_strides(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How far steps went; their time does not matter."""
    went: list[int] = []
    run_packed = FusedStep.run_packed

    def counting(self: FusedStep, *args: Any) -> Any:
        stepped = run_packed(self, *args)
        went.append(0 if stepped is None else len(stepped.before))
        return stepped

    monkeypatch.setattr(FusedStep, "run_packed", counting)
    saw = Stride.saw
    monkeypatch.setattr(Stride, "saw", lambda self, seconds, *rest, **names: saw(self, 0.0, *rest, **names))
    return went


PARAMS = SamplingParams(max_tokens=40, temperature=0.0, ignore_eos=True)


def said(model: Any, params: SamplingParams | list[SamplingParams], **settings: Any) -> list[Any]:
    llm = LLM(model, max_num_seqs=4, max_model_len=128, **settings)
    prompts = [[5, 6, 7], [8, 9], [10] * 40][: len(params) if isinstance(params, list) else 3]
    return [one.outputs[0] for one in llm.generate(prompts, params, show_progress=False)]


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_the_engine_goes_several_tokens_in_a_step(
    model: Any, dtype: str, eager_strides: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = said(model, PARAMS, kv_cache_dtype=dtype)
    assert max(eager_strides) == 7
    assert len(eager_strides) < 20
    eager_strides.clear()
    monkeypatch.setattr("seed_oss.engine.llm._AHEAD_S", 0)
    assert said(model, PARAMS, kv_cache_dtype=dtype) == ahead
    assert set(eager_strides) == {0}


@pytest.mark.parametrize("why", ["angles", "hook"])
def test_models_that_cannot_go_on_give_one_token(
    model: Any, why: str, eager_strides: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "angles":
        rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
        model = fuse_(quantize_(tiny_model(SeedOssForCausalLM, **SHAPE, rope_parameters=rope), "int8"))
    llm = LLM(model, max_num_seqs=4, max_model_len=128)
    asked: list[int] = []
    run = PagedModel.run

    def watched(self: PagedModel, batch: Any, traits: Any) -> Any:
        asked.append(batch.num_ahead)
        return run(self, batch, traits)

    monkeypatch.setattr(PagedModel, "run", watched)
    if why == "hook":
        model.lm_head.register_forward_hook(lambda *_: None)
    (output,) = llm.generate([[5, 6, 7]], PARAMS, show_progress=False)
    assert len(output.outputs[0].token_ids) == 40
    assert max(eager_strides, default=0) == 0
    assert asked.count(7) == (why == "hook")  # which nobody knows of before


def test_a_mesh_of_several_goes_one_token_at_a_time(model: Any) -> None:
    packed: Any = LLM(model, max_num_seqs=4, max_model_len=128).core._stepper._model
    assert packed.goes_ahead(None)
    assert not packed.goes_ahead("an adapter")
    packed._ranks = SimpleNamespace(size=1)
    assert packed.goes_ahead(None)
    packed._ranks = SimpleNamespace(size=2)
    assert not packed.goes_ahead(None)


def test_an_answer_ends_where_it_ends_whatever_was_computed_ahead(model: Any, eager_strides: list[int]) -> None:
    whole = said(model, PARAMS)
    rows = [list(one.token_ids) for one in whole]
    wanted = next(index for index in range(3, 40) if rows[0][index] not in rows[0][:index])
    ended, others = said(model, [replace(PARAMS, stop_token_ids=[rows[0][wanted]]), replace(PARAMS, max_tokens=11)])
    assert max(eager_strides) == 7
    assert (list(ended.token_ids), ended.finish_reason) == (rows[0][: wanted + 1], "stop_token")
    assert (list(others.token_ids), others.finish_reason) == (rows[1][:11], "length")


@pytest.mark.parametrize("other", [{"temperature": 1.0, "seed": 3}, {"logprobs": 2}, {"repetition_penalty": 1.3}])
def test_steps_with_a_row_that_is_looked_at_give_one_token(
    model: Any, other: dict[str, Any], eager_strides: list[int]
) -> None:
    short = replace(PARAMS, max_tokens=9, **other)
    alone = said(model, [replace(PARAMS, max_tokens=20)])
    eager_strides.clear()
    found = said(model, [replace(PARAMS, max_tokens=20), short])
    assert found[0] == alone[0]
    assert len(found[1].token_ids) == 9
    assert max(eager_strides) == 7
    first = next(index for index, count in enumerate(eager_strides) if count)
    assert first >= 8  # when the one that is looked at has ended
