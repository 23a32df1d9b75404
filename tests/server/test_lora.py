"""Adapters over HTTP: the engine in its process, the application in this one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from seed_oss import AutoModelForCausalLM, SeedOssForSequenceClassification, SeedOssTokenizer
from seed_oss.engine.build import build_core
from seed_oss.engine.process_client import ProcessClient
from seed_oss.engine.process_main import engine_command
from seed_oss.engine.spec import EngineSpec
from seed_oss.errors import InputError, UnsupportedModelError
from seed_oss.server.application import api_application, served_names
from seed_oss.server.settings import ServeSettings
from tests.chat.tokenizer_factory import VOCAB_SIZE, write_tiny_tokenizer
from tests.cli.conftest import make_checkpoint
from tests.engine.processes import environment, run
from tests.factory import tiny_checkpoint
from tests.lora import saved
from tests.server.asking import ask, error_of

PROMPT = list(range(20, 60))
NUM_NEW = 12


def settings_for(model: Path, *lora: str) -> ServeSettings:
    spec = EngineSpec(str(model), max_model_len=128, threads=1, dtype="float32", lora=lora)
    return ServeSettings(spec, names=("seed",))


def test_a_request_chooses_an_adapter_by_its_name(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model")
    base = AutoModelForCausalLM.from_pretrained(folder)
    expected: dict[str, list[int]] = {"seed": _greedy(base)}
    for seed, name in enumerate(("one", "two")):
        _, wrapped = saved(tmp_path / name, seed, AutoModelForCausalLM.from_pretrained(folder))
        expected[name] = _greedy(wrapped)
    settings = settings_for(folder, f"one={tmp_path / 'one'}", f"two={tmp_path / 'two'}")
    tokenizer = SeedOssTokenizer.from_pretrained(folder)

    async def scenario() -> None:
        client = ProcessClient(engine_command(settings.spec), env=environment())
        await client.start()
        try:
            app = api_application(client, settings)
            await client.wait_ready()
            models = (await ask(app)).json()["data"]
            assert [(one["id"], one["parent"]) for one in models] == [("seed", None), ("one", "seed"), ("two", "seed")]
            for name in (*expected, *expected):  # the second time out of the prefix cache
                found = await _complete(app, name)
                assert found.json()["choices"][0]["text"] == tokenizer.decode(expected[name], skip_special_tokens=True)
            unknown = await _complete(app, "three")
            assert (unknown.status_code, error_of(unknown)["code"]) == (404, "model_not_found")
        finally:
            await client.kill()

    assert len({tuple(one) for one in expected.values()}) == 3
    run(scenario())


def test_a_classifier_with_an_adapter(tmp_path: Path) -> None:
    folder = _classifier(tmp_path / "model")
    base = SeedOssForSequenceClassification.from_pretrained(folder)
    _, wrapped = saved(tmp_path / "one", 1, SeedOssForSequenceClassification.from_pretrained(folder), task_type=None)
    settings = settings_for(folder, f"one={tmp_path / 'one'}")

    async def scenario() -> None:
        client = ProcessClient(engine_command(settings.spec), env=environment())
        await client.start()
        try:
            app = api_application(client, settings)
            await client.wait_ready()
            for name, model in {"seed": base, "one": wrapped}.items():
                found = await ask(app, "/classify", "POST", json={"model": name, "input": [PROMPT]})
                with torch.no_grad():
                    expected = model(input_ids=torch.tensor([PROMPT])).logits[0].softmax(dim=0).tolist()
                assert found.json()["data"][0]["probs"] == pytest.approx(expected, abs=1e-4)
        finally:
            await client.kill()

    run(scenario())


def test_an_adapter_with_a_head_of_its_own_is_refused_by_name(tmp_path: Path) -> None:
    folder = _classifier(tmp_path / "model")
    made, _ = saved(tmp_path / "one", 1, SeedOssForSequenceClassification.from_pretrained(folder), task_type="SEQ_CLS")
    with pytest.raises(UnsupportedModelError, match=r"'modules_to_save' is .* merge it into the model"):
        build_core(settings_for(folder, f"one={made}").spec)


def _classifier(folder: Path) -> Path:
    tiny_checkpoint(folder, SeedOssForSequenceClassification, vocab_size=VOCAB_SIZE, num_labels=3)
    write_tiny_tokenizer(folder)
    return folder


async def _complete(app: Any, name: str) -> Any:
    body = {"model": name, "prompt": PROMPT, "max_tokens": NUM_NEW, "temperature": 0}
    return await ask(app, "/v1/completions", "POST", json=body)


def _greedy(model: Any) -> list[int]:
    made = model.generate(input_ids=torch.tensor([PROMPT]), max_new_tokens=NUM_NEW, do_sample=False)
    return made[0, len(PROMPT) :].tolist()


def test_names_that_clash_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'seed', which is a name of the model"):
        served_names(settings_for(tmp_path, f"seed={tmp_path}"))
    assert served_names(settings_for(tmp_path, f"one={tmp_path}")) == ("seed",)
