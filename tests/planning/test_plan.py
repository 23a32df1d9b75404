"""`seed_oss.plan`: known sizes of the 36B shape, bytes of built models, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

import seed_oss
from seed_oss import SeedOssForCausalLM, SeedOssForSequenceClassification
from seed_oss.errors import InputError, MissingFileError
from seed_oss.ops.memory import memory_bytes
from seed_oss.planning import chunks
from seed_oss.planning.chunks import default_chunk_len
from seed_oss.planning.placing import longest_that_fits
from seed_oss.planning.result import Placement
from tests.factory import tiny_checkpoint, tiny_config, tiny_model

GIB = 2**30


def placed(model: Any = "36b", **options: Any) -> Placement:
    """The only placement of a plan on the CPU."""
    found = seed_oss.plan(
        model, **{"device": "cpu", "quantization": "none", "memory": 2**50, "measure_speed": False, **options}
    ).placements
    assert len(found) == 1
    return found[0]


def test_the_36b_shape_in_bfloat16():
    plan = seed_oss.plan("36b", device="cpu", measure_speed=False)
    assert plan.num_parameters == 36_151_104_512
    weights = plan.placements[0].weights
    assert (plan.placements[0].form, weights.total) == ("bfloat16", 2 * 36_151_104_512)
    assert weights.total / 1e9 == pytest.approx(72.3, abs=0.01)
    assert weights.total / GIB == pytest.approx(67.3, abs=0.05)
    assert [placement.form for placement in plan.placements] == ["bfloat16", "int8", "int4", "int4-g128"]


def test_keys_and_values_of_the_36b_shape():
    cache = placed(context=524_288).cache
    assert (cache.dtype, cache.per_token, cache.total) == ("bfloat16", 256 * 1024, 128 * GIB)


@pytest.mark.parametrize("scheme", ["int4", "int4-sym"])
def test_the_36b_shape_in_four_bits_fits_a_small_machine(scheme: str):
    placement = placed(quantization=scheme)
    assert placement.weights.total <= 20.3 * GIB
    linears = 155_136 * 5120
    assert 8.0 * linears <= 8 * placement.weights.embedding <= 9.0 * linears
    assert placement.weights.head == placement.weights.embedding
    assert placement.quantization == scheme


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("overrides", [{}, {"tie_word_embeddings": True}, {"mlp_bias": True}])
@pytest.mark.parametrize("cls", [SeedOssForCausalLM, SeedOssForSequenceClassification])
def test_bytes_are_those_of_a_built_model(cls: Any, overrides: dict[str, Any], dtype: torch.dtype, tmp_path: Path):
    model = tiny_model(cls, **overrides).to(dtype)
    model.save_pretrained(tmp_path)
    expected = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    assert placed(tmp_path).weights.total == expected
    assert placed(tmp_path, dtype="float32").weights.total == expected * 4 // dtype.itemsize


def test_cache_bytes_are_those_of_a_filled_cache():
    model = tiny_model(SeedOssForCausalLM)
    with torch.inference_mode():
        cache = model(torch.ones(2, 24, dtype=torch.long), use_cache=True).past_key_values
    held = sum(part.numel() * part.element_size() for layer in range(3) for part in (cache[layer][0], cache[layer][1]))
    assert placed(tiny_config(), dtype="float32", context=24, batch=2).cache.total == held


@pytest.mark.parametrize("name", ["context", "batch"])
@pytest.mark.parametrize("scheme", ["none", "int8", "int4"])
def test_more_work_never_takes_less(name: str, scheme: str):
    plans = [placed(quantization=scheme, **{name: size}) for size in (1, 2, 64, 2047, 2048, 2049, 8192, 100_000)]
    totals = [placement.total_bytes for placement in plans]
    assert totals == sorted(totals)  # not always more: a short context is less than what loading takes on the way
    working = [placement.cache.total + placement.workspace.total for placement in plans]
    assert working == sorted(set(working))
    assert len({placement.weights.total for placement in plans}) == 1


def test_the_longest_context_fits_and_one_more_does_not():
    longest = placed(memory=80 * GIB).longest_context
    assert 0 < longest < 524_288
    assert placed(memory=80 * GIB, context=longest).fits
    assert not placed(memory=80 * GIB, context=longest + 1).fits
    assert longest_that_fits(lambda context: context, 0, 10) == 0
    assert longest_that_fits(lambda context: context, 99, 10) == 10


def test_the_most_exact_form_that_fits_is_suggested():
    by_memory = {200: "bfloat16", 48: "int8", 23: "int4"}
    for size, form in by_memory.items():
        best = seed_oss.plan("36b", memory=size * GIB, device="cpu", measure_speed=False).best
        assert best is not None
        assert best.form == form


def test_where_nothing_fits_the_plan_says_what_would():
    plan = seed_oss.plan("36b", memory=30 * GIB, quantization="none", device="cpu", measure_speed=False)
    assert plan.best is None
    assert plan.advice[0].startswith("Nothing fits.")
    assert any("would fit" in sentence for sentence in plan.advice)
    tiny = seed_oss.plan("36b", memory=GIB, device="cpu", measure_speed=False)
    assert any("the weights alone are" in sentence for sentence in tiny.advice)


def test_a_device_that_is_not_here_needs_a_size():
    assert placed(device="cuda:99", memory=80 * GIB).device == "cuda:99"
    with pytest.raises(InputError, match="--memory"):
        seed_oss.plan("36b", device="cuda:99")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization": "int3"}, "int3"),
        ({"context": -1}, "context is -1"),
        ({"context": 0}, "context is 0"),
        ({"batch": -4}, "batch is -4"),
        ({"batch": None}, "batch is None"),
        ({"batch": True}, "batch is True"),
        ({"memory": -1}, "memory is -1"),
        ({"prefill_chunk": 2.5}, "prefill_chunk is 2.5"),
        ({"context": 2**63}, "context is"),
        ({"context": 2**62}, "more than can be addressed"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"dtype": "int3"}, "int3"),
    ],
)
def test_wrong_arguments_are_typed_errors(options: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        seed_oss.plan("36b", measure_speed=False, **options)


@pytest.mark.parametrize(("context", "chunk"), [(9, 9), (4096, 2048), (65_536, 2048), (131_072, 1024), (10**7, 256)])
def test_chunks_are_those_of_generate(context: int, chunk: int):
    config = tiny_config(max_position_embeddings=10**7)
    assert seed_oss.plan(config, context=context, device="cpu", measure_speed=False).prefill_chunk == chunk
    assert min(context, default_chunk_len(context)) == chunk


def test_a_bound_on_chunks_holds_for_generate_and_its_plan(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(chunks, "MAX_CHUNK_LEN", 4)
    model, lengths = tiny_model(SeedOssForCausalLM), []
    with model.model.layers[0].register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1])):
        model.generate(torch.full((1, 9), 3), max_new_tokens=1)
    assert lengths == [4, 4, 1]
    assert seed_oss.plan(model.config, context=9, device="cpu", measure_speed=False).prefill_chunk == 4


def test_a_prompt_that_is_rotated_by_its_length_is_planned_whole():
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    config = tiny_config(rope_parameters=rope, max_position_embeddings=8192)
    plans = [
        seed_oss.plan(config, context=8000, prefill_chunk=chunk, device="cpu", measure_speed=False)
        for chunk in (None, 64)
    ]
    assert [plan.prefill_chunk for plan in plans] == [8000, 64]


def test_a_missing_folder(tmp_path: Path):
    with pytest.raises(MissingFileError):
        seed_oss.plan(tmp_path, measure_speed=False)


def test_memory_of_this_machine():
    total, available = memory_bytes()
    assert total is None or total > 0
    assert available is None or total is None or 0 < available <= total


def test_speeds_are_measured(tmp_path: Path):
    tiny_checkpoint(tmp_path, SeedOssForCausalLM)
    plan = seed_oss.plan(tmp_path, device="cpu", quantization="int8")
    speed = plan.placements[0].speed
    assert speed is not None
    assert speed.prefill > 0
    assert speed.decode > 0
    assert plan.measured[0].read_bytes_per_s > 1e8
