"""A whole step in one native call: the bits of the model's forward, and the forward wherever somebody watches it."""

import copy
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seed_oss import LLM, DynamicCache, QuantizedCache, SamplingParams, SeedOssForCausalLM, StaticCache, quantize_
from seed_oss.cache import PackedRows, PackedSequence, PagedCache, PagedContext
from seed_oss.engine.build import BLOCK_LEN
from seed_oss.errors import NumericalError
from seed_oss.nn.fused import fuse_, logits_of_rows, packed_batch
from seed_oss.nn.fused_step import FusedStep, RowSteps
from seed_oss.nn.told_step import Ahead
from seed_oss.ops.logits import NO_TOKEN
from seed_oss.ops.native import library, why_not
from tests.factory import random_ids, tiny_model

SHAPE = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "max_position_embeddings": 1024}
pytestmark = pytest.mark.skipif(library() is None, reason=f"no native kernels: {why_not()}")


@pytest.fixture
def model() -> Any:
    return fuse_(quantize_(tiny_model(SeedOssForCausalLM, **SHAPE), "int8"))


def step_of(model: Any) -> FusedStep:
    found = model.fused_step()
    assert found is not None
    return found


def filled(model: Any, ids: Tensor, cache: Any) -> Any:
    """A cache with all but the last token of each row."""
    with torch.no_grad():
        model(ids[:, :-1], past_key_values=cache)
    return cache


@pytest.mark.parametrize("kind", [DynamicCache, QuantizedCache])
@pytest.mark.parametrize("batch", [1, 3, 9])
def test_a_step_has_the_bits_of_the_forward(
    model: Any, kind: Callable[..., Any], batch: int, instructions: str
) -> None:
    ids = random_ids(batch, 12)
    mine, theirs = (filled(model, ids, kind(config=model.config)) for _ in range(2))
    for _ in range(3):
        with torch.no_grad():
            expected = model(ids[:, -1:], past_key_values=theirs).logits[:, -1]
            got = step_of(model).run(ids[:, -1], mine)
        assert got is not None
        assert torch.equal(got, expected)
        ids = torch.cat((ids, expected.argmax(-1, keepdim=True)), dim=1)
    assert mine.get_seq_length() == theirs.get_seq_length() == 14


def answer(model: Any, ids: Tensor, **kwargs: Any) -> list[list[int]]:
    return model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None, **kwargs).tolist()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each step whether the native call did it."""
    found: list[bool] = []
    run = FusedStep.run

    def counting(self: FusedStep, tokens: Tensor, cache: Any) -> Tensor | None:
        logits = run(self, tokens, cache)
        found.append(logits is not None)
        return logits

    monkeypatch.setattr(FusedStep, "run", counting)
    return found


@pytest.mark.parametrize("how", [{}, {"num_beams": 2}, {"repetition_penalty": 1.2}], ids=str)
def test_generate_takes_it_and_says_the_same(model: Any, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]) -> None:
    ids = random_ids(2, 7)
    steps = counted(monkeypatch)
    mine = answer(model, ids, **how)
    assert len(steps) >= 11
    assert all(steps)
    monkeypatch.setattr(FusedStep, "of", classmethod(lambda cls, *_: None))
    assert answer(model, ids, **how) == mine


PARTS: dict[str, Callable[[Any], nn.Module]] = {
    "model": lambda model: model,
    "decoder": lambda model: model.model,
    "embedding": lambda model: model.model.embed_tokens,
    "angles": lambda model: model.model.rotary_emb,
    "layers": lambda model: model.model.layers,
    "a layer": lambda model: model.model.layers[1],
    "norm": lambda model: model.model.norm,
    "head": lambda model: model.lm_head,
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_hooks_are_called_as_by_the_forward(model: Any, part: Callable[[Any], nn.Module]) -> None:
    ids = random_ids(1, 5)
    plain, calls = answer(model, ids), list[str]()
    handles = [part(model).register_forward_hook(lambda *_: calls.append("after"))]
    handles.append(part(model).register_forward_pre_hook(lambda *_: calls.append("before")))
    assert answer(model, ids) == plain
    is_lookup = part is PARTS["angles"]  # a step of the forward looks angles up without calling their module
    assert len(calls) == (2 if is_lookup else 2 * 12)
    for handle in handles:
        handle.remove()


def test_a_hook_that_comes_on_the_way_is_called(model: Any) -> None:
    ids, calls = random_ids(1, 5), list[str]()

    class Streamer:
        def put(self, value: Tensor) -> None:
            if not calls:
                model.lm_head.register_forward_hook(lambda *_: calls.append("after"))
                calls.append("registered")

        def end(self) -> None: ...

    answer(model, ids, streamer=Streamer())
    assert len(calls) > 11


def test_a_forward_that_was_replaced_is_called(model: Any) -> None:
    forward, calls = model.forward, list[str]()

    def replaced(*args: Any, **kwargs: Any) -> Any:
        calls.append("forward")
        return forward(*args, **kwargs)

    model.forward = replaced
    answer(model, random_ids(1, 5))
    assert len(calls) == 12


def test_a_subclass_keeps_its_own_forward(model: Any) -> None:
    class Mine(SeedOssForCausalLM):
        pass

    model.__class__ = Mine
    assert model.fused_step() is None


@pytest.mark.parametrize("how", [{"output_hidden_states": True}, {"output_attentions": True}])
def test_what_only_the_forward_shows(model: Any, monkeypatch: pytest.MonkeyPatch, how: dict[str, bool]) -> None:
    if "output_attentions" in how:
        model.set_attn_implementation("eager")
    steps = counted(monkeypatch)
    output = model.generate(random_ids(1, 5), max_new_tokens=3, do_sample=False, return_dict_in_generate=True, **how)
    assert not steps
    assert len(output.hidden_states or output.attentions) == 3


def test_where_the_model_is_called_instead(model: Any) -> None:
    ids = random_ids(1, 5)
    cache = filled(model, ids, DynamicCache(config=model.config))
    token, step = ids[:, -1], step_of(model)
    assert step.run(token, cache) is None, "a gradient may be wanted"
    with torch.no_grad():
        assert step.run(token, filled(model, ids, StaticCache(model.config, 16))) is None
        with torch.autocast("cpu", torch.bfloat16):
            assert step.run(token, cache) is None
        model.train()
        assert step.run(token, cache) is None
        model.eval()
        assert cache.get_seq_length() == 4
        assert step.run(token, cache) is not None
    assert tiny_model(SeedOssForCausalLM, **SHAPE).eval().fused_step() is None
    assert model.to(torch.bfloat16).fused_step() is None


@pytest.mark.parametrize("bad", [-1, 10**6])
def test_a_token_that_the_vocabulary_does_not_have(model: Any, bad: int) -> None:
    cache = filled(model, random_ids(2, 5), DynamicCache(config=model.config))
    with torch.no_grad(), pytest.raises(IndexError, match="out of range"):
        step_of(model).run(torch.tensor([1, bad]), cache)
    assert cache.get_seq_length() == 4


def test_a_copy_runs_its_own_weights(model: Any) -> None:
    ids = random_ids(1, 5)
    plain, other = answer(model, ids), copy.deepcopy(model)
    blocks = other.lm_head.packed.view(-1, 32, other.lm_head.packed.numel() // other.lm_head.shape[0])
    other.lm_head.packed.copy_(blocks.roll(1, 0).reshape_as(other.lm_head.packed))
    assert answer(other, ids) != plain
    assert answer(model, ids) == plain


def counted_numbers(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each step of a single row whether the native call did it."""
    found: list[bool] = []
    following = RowSteps.next

    def counting(self: RowSteps, token: int) -> int | None:
        best = following(self, token)
        found.append(best is not None)
        return best

    monkeypatch.setattr(RowSteps, "next", counting)
    return found


@pytest.fixture
def by_tensors(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From here on every step goes through tensors."""
    return lambda: monkeypatch.setattr(RowSteps, "next", lambda *_: None)


@pytest.mark.parametrize("kind", [DynamicCache, QuantizedCache])
def test_a_row_in_numbers_says_the_same(
    model: Any, kind: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, by_tensors: Callable[[], None]
) -> None:
    """Past the room that a cache makes at first, and past the angles of a table."""
    ids, steps = random_ids(1, 7), counted_numbers(monkeypatch)

    def said() -> tuple[Any, list[Any], Tensor]:
        output = model.generate(
            ids,
            max_new_tokens=600,
            do_sample=False,
            eos_token_id=None,
            past_key_values=kind(config=model.config),
            return_dict_in_generate=True,
        )
        cache = output.past_key_values
        return output.sequences, output.finish_reasons, cache[1][0][:, :, : cache.get_seq_length()]

    mine = said()
    assert len(steps) == 599  # the first token comes of the prompt
    assert all(steps)
    by_tensors()
    for one, other in zip(mine, said(), strict=True):
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


ENDS = [{"eos_token_id": [3, 5, 8, 13, 21]}, {"max_time": 1e-9}, {"max_new_tokens": 1}]


@pytest.mark.parametrize("how", ENDS, ids=str)
def test_a_row_in_numbers_ends_for_the_same_reason(
    model: Any, how: dict[str, Any], by_tensors: Callable[[], None]
) -> None:
    class Streamer:
        def __init__(self) -> None:
            self.heard = list[list[int]]()

        def put(self, value: Tensor) -> None:
            self.heard.append(value.flatten().tolist())

        def end(self) -> None:
            self.heard.append([])

    def said(seed: int) -> tuple[Any, ...]:
        streamer, ids = Streamer(), random_ids(1, 5, seed=seed)
        settings = {"max_new_tokens": 64, "do_sample": False, "return_dict_in_generate": True, **how}
        output = model.generate(ids, streamer=streamer, **settings)
        return output.sequences.tolist(), output.finish_reasons, streamer.heard

    mine = [said(seed) for seed in range(4)]
    by_tensors()
    assert [said(seed) for seed in range(4)] == mine


@pytest.mark.parametrize(
    "how",
    [
        {"repetition_penalty": 1.2},
        {"do_sample": True},
        {"output_logits": True, "return_dict_in_generate": True},
        {"output_logprobs": True, "return_dict_in_generate": True},
        {"stopping_criteria": [lambda ids, scores, **_: False]},
        {"num_return_sequences": 2, "do_sample": True},
    ],
    ids=lambda how: next(iter(how)),
)
def test_rows_that_want_tensors_get_them(model: Any, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    steps = counted_numbers(monkeypatch)
    model.generate(random_ids(1, 5), max_new_tokens=4, eos_token_id=None, **{"do_sample": False, **how})
    assert not steps


def test_a_cache_that_is_changed_on_the_way(model: Any, by_tensors: Callable[[], None]) -> None:
    ids = random_ids(1, 9)

    def said() -> list[list[int]]:
        cache, lengths = DynamicCache(config=model.config), list[int]()

        class Streamer:
            def put(self, value: Tensor) -> None:
                lengths.append(cache.get_seq_length())
                if len(lengths) == 5:
                    cache.crop(4)
                if len(lengths) == 8:
                    cache.reorder_cache(torch.tensor([0]))

            def end(self) -> None: ...

        found = answer(model, ids, past_key_values=cache, streamer=Streamer())
        return [*found, lengths]

    mine = said()
    by_tensors()
    assert said() == mine


def test_what_is_no_number_in_a_row_of_numbers(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, following = random_ids(1, 5), RowSteps.next
    monkeypatch.setattr(RowSteps, "next", lambda self, token: NO_TOKEN if following(self, token) else 0)
    with pytest.raises(NumericalError, match="new token 2"):
        answer(model, ids)
    monkeypatch.undo()
    steps = step_of(model).of_row(filled(model, ids, DynamicCache(config=model.config)))
    with torch.no_grad():
        for bad in (-1, 10**6):
            with pytest.raises(IndexError, match="out of range"):
                steps.next(bad)
        assert isinstance(steps.next(int(ids[0, -1])), int)


@pytest.mark.parametrize("length", [14, 15, 16])
def test_a_warning_on_the_way_points_to_who_generates(length: int) -> None:
    shape = {**SHAPE, "max_position_embeddings": 16}
    model = fuse_(quantize_(tiny_model(SeedOssForCausalLM, **shape), "int8"))
    with pytest.warns(UserWarning, match="positions go beyond") as caught:
        model.generate(random_ids(1, length), max_new_tokens=6, do_sample=False, eos_token_id=None)
    assert [one.filename for one in caught] == [__file__]


@pytest.mark.parametrize("rope", ["default", "dynamic"])
def test_angles_that_depend_on_lengths_go_through_tensors(rope: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = {"rope_type": rope, "rope_theta": 1e4, **({} if rope == "default" else {"factor": 2.0})}
    model = fuse_(quantize_(tiny_model(SeedOssForCausalLM, **SHAPE, rope_parameters=parameters), "int8"))
    steps = counted_numbers(monkeypatch)
    answer(model, random_ids(1, 5))
    assert set(steps) == {rope == "default"}


@pytest.mark.parametrize("lengths", [(5,), (3, 40, 17, 9, 1, 2, 6, 8, 30, 4)])
def test_a_step_of_packed_rows_has_the_bits_of_the_forward(
    model: Any, lengths: tuple[int, ...], instructions: str
) -> None:
    tables = [tuple(range(4 * row, 4 * row + 4)) for row in range(len(lengths))]
    prompts = [random_ids(1, length + 1)[0] for length in lengths]
    before = PackedRows(tuple(PackedSequence(0, n, table) for n, table in zip(lengths, tables, strict=True)))
    now = PackedRows(tuple(PackedSequence(n, 1, table) for n, table in zip(lengths, tables, strict=True)))
    tokens = torch.stack([one[-1] for one in prompts])
    found: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        for is_step in (False, True):
            cache = PagedCache(model.config, 4 * len(lengths), 16, torch.bfloat16)
            ids, places = torch.cat([one[:-1] for one in prompts]), torch.cat([torch.arange(n) for n in lengths])
            model.model.run_packed(ids, places, PagedContext(cache, before))
            context = PagedContext(cache, now)
            if is_step:
                step = step_of(model).run_packed(tokens.tolist(), context)
                assert step is not None
                assert step.best == step.logits.argmax(dim=1).tolist()
                assert step.lost is None
                found.append((step.hidden, step.logits))
            else:
                hidden = model.model.run_packed(tokens, torch.tensor(lengths), context)
                found.append((hidden, logits_of_rows(model.lm_head, hidden)))
    assert all(map(torch.equal, *found))


def rows_at(starts: Sequence[int], tables: Sequence[tuple[int, ...]], length: int = 1) -> PackedRows:
    return PackedRows(tuple(PackedSequence(n, length, table) for n, table in zip(starts, tables, strict=True)))


def test_sequences_that_go_on_are_told_of_once(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever changes between steps, they have the bits of steps that know nothing of those before."""
    told: list[int] = []

    def counting(memory: Any, rows: PackedRows, *args: Any, **kwargs: Any) -> Any:
        told.append(len(rows.sequences))
        return packed_batch(memory, rows, *args, **kwargs)

    monkeypatch.setattr("seed_oss.nn.told_step.packed_batch", counting)
    first, second, third, last = (0, 1), (2, 3), (4, 5, 6), (4, 7, 6)
    steps = [(list(starts), [first, second]) for starts in ([14, 3], [15, 4], [16, 5])]  # over the border of a block
    steps += [([17, 6, 0], [first, second, third]), ([18, 1], [first, third]), ([19, 2], [first, third])]
    steps += [([20, 3], [first, last]), ([0, 1], [first, last]), ([9], [second])]
    caches = [PagedCache(model.config, 8, 16, torch.float32) for _ in range(2)]
    for cache in caches:
        for room in cache.rooms:
            for numbers in (room.keys, room.values):
                numbers.copy_(torch.randn(numbers.shape, generator=torch.Generator().manual_seed(7)))
    mine = step_of(model)
    for starts, tables in steps:
        rows = rows_at(starts, tables)
        tokens = random_ids(1, len(starts))[0].tolist()
        with torch.no_grad():
            found = mine.run_packed(tokens, PagedContext(caches[0], rows))
            count = len(told)
            fresh = FusedStep.of(model, model.model, model.lm_head)
            assert fresh is not None
            expected = fresh.run_packed(
                tokens, PagedContext(caches[1], rows_at(starts, [tuple(one) for one in tables]))
            )
        del told[count:]
        assert found is not None
        assert expected is not None
        assert torch.equal(found.logits, expected.logits)
        assert torch.equal(found.hidden, expected.hidden)
        assert found.best == expected.best
    assert told == [2, 3, 2, 2, 1]
    for room in caches[1].rooms:
        room.values.neg_()
    with torch.no_grad():  # other memory, and other angles
        for theta in (None, 100.0):
            if theta is not None:
                model.model.rotary_emb.config.rope_parameters["rope_theta"] = theta
                model.model.rotary_emb.reset_buffers()
            rows, fresh = rows_at([9], [second]), FusedStep.of(model, model.model, model.lm_head)
            assert fresh is not None
            found, expected = (one.run_packed([5], PagedContext(caches[1], rows)) for one in (mine, fresh))
            assert found is not None
            assert expected is not None
            assert torch.equal(found.logits, expected.logits)


@pytest.mark.parametrize("start", [250, 32_760])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_sequences_grow_beyond_what_is_looked_up(model: Any, start: int, dtype: torch.dtype) -> None:
    """Angles are in tables of 256, and in none beyond 32,768."""
    table = tuple(range(-(-(start + 16) // 16)))
    cache, mine = PagedCache(model.config, len(table), 16, dtype), step_of(model)
    for number in range(14):
        torch.set_num_threads(1 + number % 2)
        with torch.no_grad():
            found = mine.run_packed([number], PagedContext(cache, rows_at([start + number], [table])))
            again = step_of(model).run_packed([number], PagedContext(cache, rows_at([start + number], [table])))
        assert found is not None
        assert again is not None
        assert torch.equal(found.logits, again.logits)
    torch.set_num_threads(1)


def test_threads_may_run_steps_of_one_model(model: Any) -> None:
    step, caches = step_of(model), [PagedCache(model.config, 2, 16, torch.float32) for _ in range(3)]
    rows = rows_at([3], [(0,)]), rows_at([2, 5], [(0,), (1,)]), rows_at([4], [(1,)])

    @torch.no_grad()
    def run(number: int) -> list[Tensor]:
        found = list[Tensor]()
        for token in range(40):
            count = len(rows[number].sequences)
            stepped = step.run_packed([token] * count, PagedContext(caches[number], rows[number]))
            assert stepped is not None
            found += [stepped.logits, stepped.hidden]
        return found

    alone = [run(number) for number in range(3)]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(run, range(3)))
    assert all(
        torch.equal(a, b)
        for ours, theirs in zip(alone, together, strict=True)
        for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("what", ["hook", "head", "norm", "embedding"])
def test_what_changes_between_packed_steps_is_seen(model: Any, what: str) -> None:
    """The model is called instead, and nothing that was told of the weights before is kept."""
    cache, step, rows = PagedCache(model.config, 1, 16, torch.float32), step_of(model), rows_at([0], [(0,)])
    with torch.no_grad():
        assert step.run_packed([5], PagedContext(cache, rows)) is not None
        told = weakref.ref(step._told)
        if what == "hook":
            model.model.layers[0].register_forward_hook(lambda *_: None)
        elif what == "norm":
            model.model.norm.weight = nn.Parameter(model.model.norm.weight * 2, requires_grad=False)
        else:
            module = model.lm_head if what == "head" else model.model.embed_tokens
            module.packed = module.packed.clone()
        assert step.run_packed([5], PagedContext(cache, rows)) is None
    assert told() is None


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64])
def test_torchs_defaults_are_not_ours(model: Any, default: torch.dtype) -> None:
    """Another library may set them for a while; the kernels write to memory of fp32 whatever they are."""
    ids = random_ids(1, 5)
    llm = LLM(model, max_num_seqs=2, max_model_len=64)
    plain = SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True)
    drawn = SamplingParams(max_tokens=6, temperature=1.0, top_p=0.9, top_k=20, min_p=0.01, seed=3, logprobs=2)
    work: list[Callable[[], Any]] = [
        lambda: answer(model, ids),
        lambda: answer(model, random_ids(3, 5)),
        lambda: model.generate(ids, max_new_tokens=5, do_sample=True, top_p=0.9, min_p=0.01, seed=3).tolist(),
        lambda: llm.generate([[5, 6, 7], [8, 9]], plain, show_progress=False),
        lambda: llm.generate([[5, 6, 7], [8, 9]], drawn, show_progress=False),
    ]
    expected = [one() for one in work]
    torch.set_default_dtype(default)
    try:
        found = [one() for one in work]
    finally:
        torch.set_default_dtype(torch.float32)
    assert found == expected


def test_blocks_in_a_list_may_change(model: Any) -> None:
    cache, step, blocks = PagedCache(model.config, 2, 16, torch.float32), step_of(model), [0]
    for room in cache.rooms:
        room.values[1] = 1
    with torch.no_grad():
        for block in (0, 1):
            blocks[0] = block
            rows = PackedRows((PackedSequence(3, 1, blocks),))
            found = step.run_packed([5], PagedContext(cache, rows))
            expected = step.run_packed([5], PagedContext(cache, PackedRows((PackedSequence(3, 1, (block,)),))))
            assert found is not None
            assert expected is not None
            assert torch.equal(found.logits, expected.logits)
            step.run_packed([5], PagedContext(cache, rows))


def test_results_of_a_step_stay_when_the_next_is_run(model: Any) -> None:
    cache, step = PagedCache(model.config, 1, 16, torch.float32), step_of(model)
    table = (0,)
    with torch.no_grad():
        first = step.run_packed([5], PagedContext(cache, rows_at([0], [table])))
        assert first is not None
        kept = first.logits.clone(), first.hidden.clone(), list(first.best)
        step.run_packed([6], PagedContext(cache, rows_at([1], [table])))
    assert torch.equal(first.logits, kept[0])
    assert torch.equal(first.hidden, kept[1])
    assert first.best == kept[2]


def test_a_token_that_the_vocabulary_lacks(model: Any) -> None:
    cache, step, table = PagedCache(model.config, 1, 16, torch.float32), step_of(model), (0,)
    with torch.no_grad():
        for token in (model.config.vocab_size, -1):
            with pytest.raises(IndexError, match="index out of range"):
                step.run_packed([token], PagedContext(cache, rows_at([0], [table])))
        assert step.run_packed([5], PagedContext(cache, rows_at([0], [table]))) is not None


def test_a_step_says_which_rows_are_lost(model: Any, instructions: str) -> None:
    cache = PagedCache(model.config, 3, 16, torch.float32)
    sequences = tuple(PackedSequence(4, 1, (row,)) for row in range(3))
    for room in cache.rooms:
        room.keys.zero_()
        room.values.zero_()
    cache.rooms[0].values[1, :, 0] = torch.nan
    with torch.no_grad():
        step = step_of(model).run_packed((5, 6, 7), PagedContext(cache, PackedRows(sequences)))
    assert step is not None
    assert step.lost == [False, True, False]
    assert step.best == [int(step.logits[0].argmax()), NO_TOKEN, int(step.logits[2].argmax())]


def test_the_engine_takes_steps_in_one_call(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    num_rows: list[int] = []
    run_packed = FusedStep.run_packed

    def counting(self: FusedStep, tokens: Sequence[int], context: PagedContext, ahead: Ahead) -> Any:
        stepped = run_packed(self, tokens, context, ahead)
        assert stepped is not None
        num_rows.extend([len(tokens)] * (1 + len(stepped.before)))
        return stepped

    monkeypatch.setattr(FusedStep, "run_packed", counting)
    llm = LLM(model, max_num_seqs=4, max_model_len=64)
    num_rows.clear()  # of the check at the start
    params = SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True)
    together = llm.generate([[5, 6, 7], [8, 9]], params, show_progress=False)
    assert num_rows == [2] * 5
    monkeypatch.setattr(FusedStep, "run_packed", lambda *_: None)
    assert llm.generate([[5, 6, 7], [8, 9]], params, show_progress=False) == together


def test_the_engine_calls_hooks_where_only_one_token_of_a_prompt_is_new(model: Any) -> None:
    llm, calls = LLM(model, max_num_seqs=1, max_model_len=4 * BLOCK_LEN), list[int]()
    prompt = random_ids(1, BLOCK_LEN + 1)[0].tolist()
    params = SamplingParams(max_tokens=1, temperature=0.0)
    first = llm.generate([prompt], params, show_progress=False)
    model.model.layers[0].register_forward_hook(lambda *_: calls.append(1))
    again = llm.generate([prompt], params, show_progress=False)
    assert again[0].num_cached_tokens == BLOCK_LEN
    assert again[0].outputs[0].token_ids == first[0].outputs[0].token_ids
    assert calls
