"""Adapters in the engine: peft's tokens, equal bits in a crowd, and a prefix cache that never mixes them."""

import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from seed_oss import SamplingParams, quantize_
from seed_oss.engine.llm import LLM
from seed_oss.engine.spec import EngineSpec
from seed_oss.errors import InputError, MissingFileError
from tests.factory import random_ids
from tests.lora import saved, small_model

GREEDY = SamplingParams(temperature=0, max_tokens=12, min_tokens=12, logprobs=1)
PROMPTS = [random_ids(length, seed=length).tolist() for length in (3, 9, 20, 41, 70)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("lora")
    saved(root / "first", 1)
    saved(root / "second", 2, target_modules=["q_proj", "v_proj"], use_rslora=True)
    return {name: root / name for name in ("first", "second")}


@lru_cache
def model(kind: str = "float32") -> Any:
    made = small_model()
    return quantize_(made, kind) if kind.startswith("int") else made.to(getattr(torch, kind))


def llm(folders: Any, kind: str = "float32", **settings: Any) -> LLM:
    return LLM(model(kind), lora=folders, **{"max_model_len": 128, "max_num_batched_tokens": 48, **settings})


def answers(found: Sequence[Any]) -> list[Any]:
    return [(one.outputs[0].token_ids, one.outputs[0].logprobs) for one in found]


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}], ids=["plain", "rslora"])
def test_greedy_tokens_are_those_of_peft(tmp_path: Path, settings: dict[str, Any]) -> None:
    folder, wrapped = saved(tmp_path, 3, **settings)
    engine = llm({"tuned": folder})
    assert engine.core.ready().adapters == ("tuned",)
    assert engine.core.ready().is_batch_invariant
    ours = engine.generate(PROMPTS, GREEDY, adapter="tuned")
    base = engine.generate(PROMPTS, GREEDY)
    for prompt, one, plain in zip(PROMPTS, ours, base, strict=True):
        expected = wrapped.generate(
            input_ids=torch.tensor([prompt]), max_new_tokens=12, min_new_tokens=12, do_sample=False
        )
        assert list(one.outputs[0].token_ids) == expected[0, len(prompt) :].tolist()
        assert one.outputs[0].token_ids != plain.outputs[0].token_ids


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
def test_equal_bits_alone_and_in_a_mixed_crowd(folders: dict[str, Path], kind: str) -> None:
    work = [(prompt, name) for prompt in PROMPTS for name in (None, "first", "second")]
    alone = [
        answers(llm(folders, kind, max_num_seqs=1).generate([prompt], GREEDY, adapter=name)) for prompt, name in work
    ]
    random.Random(0).shuffle(order := list(range(len(work))))
    prompts, names = zip(*(work[place] for place in order), strict=True)
    crowd = llm(folders, kind, max_num_seqs=8)
    found = answers(crowd.generate(list(prompts), GREEDY, adapter=list(names)))
    assert found == [alone[place][0] for place in order]
    assert answers(crowd.generate(list(prompts), GREEDY, adapter=list(names))) == found  # from the prefix cache
    plain = LLM(model(kind), max_model_len=128, max_num_batched_tokens=48)
    assert answers(plain.generate(PROMPTS, GREEDY)) == [alone[3 * place][0] for place in range(len(PROMPTS))]


def test_the_prefix_cache_never_mixes_adapters(folders: dict[str, Path]) -> None:
    engine, prompt = llm({**folders, "twin": folders["first"]}), PROMPTS[4]

    def cached(name: str | None) -> int:
        return engine.generate([prompt], GREEDY, adapter=name)[0].num_cached_tokens

    assert [cached(name) for name in (None, "first", "second")] == [0, 0, 0]
    assert [cached(name) for name in (None, "first", "second", "twin")] == [64, 64, 64, 64]  # twins are one adapter


def test_other_tasks_run_through_adapters(folders: dict[str, Path]) -> None:
    engine = llm(folders)
    vectors = [engine.embed([PROMPTS[1]], adapter=name)[0].values for name in (None, "first", "second")]
    scores = [engine.score([PROMPTS[1]], adapter=name)[0].logprob for name in (None, "first", "second")]
    assert len(set(vectors)) == len(set(scores)) == 3


def test_what_cannot_be_asked_for(folders: dict[str, Path], tmp_path: Path) -> None:
    engine = llm(folders)
    with pytest.raises(InputError, match="adapter names none that is loaded"):
        engine.generate([PROMPTS[0]], GREEDY, adapter="third")
    with pytest.raises(InputError, match="adapter has 1 entries for 2 prompts"):
        engine.generate(PROMPTS[:2], GREEDY, adapter=["first"])
    with pytest.raises(MissingFileError, match=r"adapter 'empty' cannot be used: .*adapter_config\.json"):
        llm({"empty": tmp_path})


@pytest.mark.parametrize("lora", ["name", "name=", "=folder", "a b=folder", "x" * 65 + "=folder", "ä=folder"])
def test_names_are_plain(lora: str) -> None:
    with pytest.raises(InputError, match="write NAME=FOLDER"):
        EngineSpec("demo", lora=(lora,)).lora_folders  # noqa: B018
    with pytest.raises(InputError, match="twice"):
        EngineSpec("demo", lora=("a=b", "a=c")).lora_folders  # noqa: B018


def test_settings_travel_as_json() -> None:
    spec = EngineSpec("demo", lora=("a=b=c", "d=e"))
    assert EngineSpec.from_json(spec.to_json()) == spec
    assert spec.lora_folders == {"a": "b=c", "d": "e"}
    with pytest.raises(InputError, match="no list of texts"):
        EngineSpec.from_json('{"model": "demo", "lora": [1]}')
