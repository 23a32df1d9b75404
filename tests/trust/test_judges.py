"""The judges see what they are there to see."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from seed_oss import SeedOssConfig, SeedOssTokenizer
from seed_oss.files import opening
from seed_oss.weights.source import CheckpointSource
from tests.trust.judges import (
    WrongLoadError,
    judge_config,
    judge_model,
    judge_tensors,
    judge_tokenizer,
)
from tests.trust.test_malformed import load_and_judge, make_examples


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_examples(tmp_path_factory.mktemp("examples"))


def test_good_examples_load(place: Path) -> None:
    for judge, kinds in (
        (judge_model, ("single", "sharded")),
        (judge_tensors, ("single", "sharded")),
        (judge_config, ("config",)),
        (judge_tokenizer, ("tokenizer",)),
    ):
        for kind in kinds:
            assert load_and_judge(place / kind, judge, kind) == ("loaded", "")


@pytest.mark.parametrize("judge", [judge_model, judge_tensors])
def test_a_byte_off_is_seen(place: Path, monkeypatch: pytest.MonkeyPatch, judge: Any) -> None:
    read_into = CheckpointSource.read_into

    def off_by_one_element(self: CheckpointSource, name: str, out: torch.Tensor) -> None:
        read_into(self, name, out)
        if name.endswith("down_proj.weight"):
            out.copy_(out.roll(1))

    monkeypatch.setattr(CheckpointSource, "read_into", off_by_one_element)
    with pytest.raises(WrongLoadError, match="was loaded as something else"):
        judge(place / "sharded")


def test_a_field_of_the_config_that_is_not_taken_over_is_seen(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to_dict = SeedOssConfig.to_dict
    monkeypatch.setattr(SeedOssConfig, "to_dict", lambda self: {**to_dict(self), "rms_norm_eps": 1e-5})
    with pytest.raises(WrongLoadError, match="rms_norm_eps is 1e-06 in the file, 1e-05 loaded"):
        judge_config(place / "config")


def test_other_ids_are_seen(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = SeedOssTokenizer.__call__
    monkeypatch.setattr(SeedOssTokenizer, "__call__", lambda self, text: call(self, text + " "))
    with pytest.raises(WrongLoadError, match="by the tokenizers package"):
        judge_tokenizer(place / "tokenizer")


def test_a_file_that_safetensors_refuses_is_seen(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seed_oss.files import safetensors_header

    shutil.copytree(place / "single", tmp_path / "spoiled")
    with (tmp_path / "spoiled" / "model.safetensors").open("ab") as file:
        file.write(b"more")
    assert load_and_judge(tmp_path / "spoiled", judge_tensors, "")[0] == "CheckpointError"
    monkeypatch.setattr(safetensors_header, "_check_layout", lambda *args: None)
    with pytest.raises(WrongLoadError, match="refused by the safetensors package"):
        judge_tensors(tmp_path / "spoiled")


def test_a_read_outside_the_folder_is_seen(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judges do not look where a file came from: that the opening refuses is what keeps this from loading."""
    shutil.copytree(place / "config", tmp_path / "spoiled")
    (tmp_path / "elsewhere.json").write_text(json.dumps({"model_type": "seed_oss"}))
    (tmp_path / "spoiled" / "config.json").unlink()
    (tmp_path / "spoiled" / "config.json").symlink_to("../elsewhere.json")
    assert load_and_judge(tmp_path / "spoiled", judge_config, "")[0] == "UnsafeFileError"
    monkeypatch.setattr(opening, "_allowed_link_target", lambda folder, name: (tmp_path, ("elsewhere.json",)))
    assert load_and_judge(tmp_path / "spoiled", judge_config, "")[0] == "loaded"


def test_an_untyped_error_fails_with_its_case_named(place: Path) -> None:
    def untyped(folder: Path) -> None:
        raise KeyError("x")

    with pytest.raises(AssertionError, match="case 7: KeyError"):
        load_and_judge(place, untyped, "case 7")
