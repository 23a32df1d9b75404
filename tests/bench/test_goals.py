"""benchmarks/goals.py: which goals a result reached, and that a missed one is said to be."""

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def goals(monkeypatch: Any) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import goals  # pyright: ignore[reportMissingImports]

    return goals


def row(engine: str, weights: str, prefill: float = 0, decode: float = 0, share: float = 0, first: float = 0) -> Any:
    speeds = {"prefill_tokens_per_s": prefill, "decode_tokens_per_s": decode, "decode_share_of_read": share}
    return {"engine": engine, "weights": weights, **speeds, "first_token_s": first or None}


def test_ratios_of_rows_of_one_run(goals: Any) -> None:
    rows = [
        row("seed_oss", "int4", prefill=1000, decode=250, first=1.5),
        row("seed_oss", "int4-min", prefill=9000, decode=900),  # not the weights that are asked about
        row("seed_oss LLM", "int4", decode=240),
        row("llama.cpp", "Q4_1", prefill=200, decode=100),
        row("openvino", "int4 asymmetric g32, bf16", prefill=900),
        row("openvino", "int4 asymmetric g32, f32", prefill=500),
        row("transformers", "bfloat16", first=4.0),
        row("transformers", "float32", first=2.8),
    ]
    found = goals.engine_goals("engines_demo_int4", {"results": rows, "import_torch_s": 0.6})
    reached = {goal["what"]: (goal["reached"], goal["is_reached"]) for goal in found}
    assert reached == {
        "int4 decoding, of llama.cpp Q4_1's": ("2.50x", True),
        "LLM, int4 decoding, of llama.cpp Q4_1's": ("2.40x", False),
        "int4 prompt, of llama.cpp Q4_1's": ("5.00x", True),
        "int4 prompt, of openvino int4 asymmetric g32, bf16's": ("1.11x", False),  # its faster row counts
        "int4, process start to first token: `import torch` and 0.8 s": ("1.50 s", False),
        "int4, process start to first token: half of transformers'": ("1.50 s", False),
    }
    assert goals.said(found).count("MISSED: ") == 4


@pytest.mark.parametrize(
    ("weights", "peer", "decode", "share", "is_reached"),
    [
        ("bfloat16", ("transformers", "bfloat16"), 8.0, 0.5, True),
        ("bfloat16", ("transformers", "bfloat16"), 4.0, 0.85, True),
        ("bfloat16", ("transformers", "bfloat16"), 7.9, 0.84, False),
        ("int4-sym", ("llama.cpp", "Q4_0"), 3.0, 0.5, True),
        ("int8", ("llama.cpp", "Q8_0"), 2.3, 0.92, True),
        ("int8", ("llama.cpp", "Q8_0"), 2.9, 0.84, False),
    ],
)
def test_the_lower_of_two_goals_is_to_be_reached(
    weights: str, peer: tuple[str, str], decode: float, share: float, is_reached: bool, goals: Any
) -> None:
    rows = [row("seed_oss", weights, decode=decode, share=share), row(*peer, decode=2.0)]
    (goal,) = goals.engine_goals("engines_1b", {"results": rows, "import_torch_s": None})
    assert goal["is_reached"] is is_reached


def test_share_of_the_read_bandwidth(goals: Any) -> None:
    document = {"results": [row("seed_oss", "int4", decode=1.5, share=0.79)], "import_torch_s": None}
    (goal,) = goals.engine_goals("engines_36b", document)
    assert (goal["reached"], goal["is_reached"]) == ("79 %", False)


def test_a_peer_far_below_what_is_known_of_it_is_said(goals: Any) -> None:
    rows = [
        row("llama.cpp", "Q4_0 flash_attn", prefill=108, decode=23),
        row("llama.cpp", "Q8_0", prefill=40),
        row("transformers", "bfloat16", decode=2.3),
        row("seed_oss", "int8", prefill=1, decode=1),
    ]
    found = goals.peer_goals("engines_1b", {"results": rows})
    assert {goal["what"]: (goal["reached"], goal["is_reached"]) for goal in found} == {
        "transformers bfloat16 decoding, of the 3.2 tokens/s known of it": ("0.719x", True),
        "llama.cpp Q4_0 flash_attn prompt, of the 108 tokens/s known of it": ("1.000x", True),
        "llama.cpp Q4_0 flash_attn decoding, of the 33 tokens/s known of it": ("0.697x", False),
        "llama.cpp Q8_0 prompt, of the 70 tokens/s known of it": ("0.571x", False),
    }
    assert goals.peer_goals("engines_36b", {"results": rows}) == []


def test_serving(goals: Any) -> None:
    def ratios(**found: float) -> Any:
        return {"ratios": {name.replace("_", " "): {"median": value} for name, value in found.items()}}

    levels = {"4": ratios(), "16": ratios(transformers_loop=12.0), "64": ratios()}
    levels["4"]["ratios"]["LLM.generate"] = {"median": 0.946}
    levels["16"]["ratios"]["llama-server"] = {"median": 1.2}
    found = goals.serving_goals({"levels": levels, "each_level_to_the_one_before": [1.5, 0.94]})
    assert [(goal["reached"], goal["is_reached"]) for goal in found] == [
        ("1.20x", False),
        ("12.00x", True),
        ("0.946x", False),
        ("1.500x", True),
        ("0.940x", False),
    ]


def test_quality(goals: Any) -> None:
    increases = {
        "rebased": {
            **{"fp32": -2e-5, "gguf Q4_0": 0.4, "gguf Q4_1": 0.4, "int8, search": 0.0051},
            **{"int4-sym, calibrated": 0.2, "int4-min, calibrated": 0.21},
        },
        "original": {"int4-min, search": -0.0029},
        "inference": {"fp32, 8-bit cache": -0.01},
    }
    found = goals.quality_goals(
        {table: {name: {"increase": one} for name, one in rows.items()} for table, rows in increases.items()}
    )
    assert [(goal["reached"], goal["is_reached"]) for goal in found] == [
        ("0.500x", True),
        ("0.525x", False),
        ("-0.002 %", False),
        ("+0.51 %", False),
        ("-0.29 %", True),
        ("-1 %", True),
    ]
    assert goals.quality_goals({}) == []


@pytest.mark.parametrize(("name", "num"), [("engines_demo_int4", 20), ("engines_1b", 14), ("engines_36b", 1)])
def test_the_stored_speeds_have_their_goals(name: str, num: int, goals: Any) -> None:
    document = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    assert document["goals"] == [*goals.engine_goals(name, document), *goals.peer_goals(name, document)]
    assert len(document["goals"]) == num


def test_the_stored_quality_has_its_goals(goals: Any) -> None:
    """Each of the six, and as the stored numbers have it."""
    results = json.loads((ROOT / "benchmarks" / "results" / "quality.json").read_text(encoding="utf-8"))["results"]
    assert results["goals"] == goals.quality_goals(results)
    assert len(results["goals"]) == 6


def test_what_was_not_measured_has_no_line(goals: Any) -> None:
    lonely = {"results": [row("seed_oss", "int4", decode=1)], "import_torch_s": 1}
    assert goals.engine_goals("engines_1b", lonely) == goals.engine_goals("engines_demo_int4", lonely) == []
    assert goals.serving_goals({"levels": {"1": {"ratios": {}}}, "each_level_to_the_one_before": []}) == []
