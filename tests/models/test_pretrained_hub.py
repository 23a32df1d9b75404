"""from_pretrained("organisation/name") over real HTTP, from a stand-in on this machine."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from seed_oss import AutoConfig, AutoModelForCausalLM, SeedOssForCausalLM
from seed_oss.errors import HubError, MissingFileError
from tests.factory import tiny_model
from tests.files.hub_standin import HubStandin
from tests.files.test_hub import hub as hub  # the fixture
from tests.models.test_pretrained import assert_same_state

REPO = "ByteDance-Seed/Seed-OSS-tiny"


def files_of(folder: Path, prefix: str = "") -> dict[str, bytes]:
    return {prefix + path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def models(tmp_path: Path, hub: HubStandin) -> dict[str, SeedOssForCausalLM]:
    """A repository with an old tag, a sharded main branch, and a subfolder; the models by these names."""
    saved: dict[str, SeedOssForCausalLM] = {}
    files: dict[str, dict[str, bytes]] = {}
    for seed, (name, size) in enumerate([("old", "5GB"), ("main", "40KB"), ("sub", "5GB")]):
        saved[name] = tiny_model(SeedOssForCausalLM, seed=seed)
        saved[name].generation_config.top_k = 10 + seed
        saved[name].save_pretrained(tmp_path / name, max_shard_size=size)
        files[name] = files_of(tmp_path / name, "int/" if name == "sub" else "")
    repository = hub.repository(REPO)
    repository.push(files["old"], branch="v1")
    repository.push({**files["main"], **files["sub"], "modeling_evil.py": b"raise SystemExit"})
    return saved


def test_by_name_branch_and_subfolder(hub: HubStandin, models: dict[str, SeedOssForCausalLM], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for kwargs, name in [({}, "main"), ({"revision": "v1"}, "old"), ({"subfolder": "int"}, "sub")]:
        loaded = AutoModelForCausalLM.from_pretrained(REPO, cache_dir=cache, **kwargs)
        assert_same_state(loaded, models[name])
        assert loaded.generation_config.top_k == models[name].generation_config.top_k
        assert loaded.name_or_path == REPO
    assert "modeling_evil.py" not in hub.downloads()
    assert AutoConfig.from_pretrained(REPO, cache_dir=cache).hidden_size == 32


def test_an_interrupted_download(
    hub: HubStandin, models: dict[str, SeedOssForCausalLM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
    shard = "model-00002-of-00005.safetensors"
    hub.cuts[shard] = [5000]
    assert_same_state(SeedOssForCausalLM.from_pretrained(REPO, cache_dir=tmp_path / "cache"), models["main"])
    ranges = [request.range for request in hub.log if request.path.endswith(shard) and request.method == "GET"]
    assert ranges == [None, "bytes=4096-"]


def test_offline_from_the_cache(hub: HubStandin, models: dict[str, SeedOssForCausalLM], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(HubError, match="the network is off"):
        SeedOssForCausalLM.from_pretrained(REPO, cache_dir=cache, local_files_only=True)
    SeedOssForCausalLM.from_pretrained(REPO, cache_dir=cache)
    hub.down = 503
    loaded = SeedOssForCausalLM.from_pretrained(REPO, cache_dir=cache, local_files_only=True, dtype=torch.bfloat16)
    assert torch.equal(loaded.lm_head.weight, models["main"].lm_head.weight.bfloat16())


def test_a_private_model(hub: HubStandin, models: dict[str, SeedOssForCausalLM], tmp_path: Path) -> None:
    hub.repositories[REPO].token = "hf_secret"
    with pytest.raises((HubError, MissingFileError)) as error:
        SeedOssForCausalLM.from_pretrained(REPO, cache_dir=tmp_path / "cache", token="hf_wrong")
    assert "hf_wrong" not in str(error.value)
    loaded = SeedOssForCausalLM.from_pretrained(REPO, cache_dir=tmp_path / "cache", token="hf_secret")
    assert_same_state(loaded, models["main"])


def test_no_such_model(hub: HubStandin) -> None:
    with pytest.raises(MissingFileError, match="ByteDance-Seed/nothing"):
        SeedOssForCausalLM.from_pretrained("ByteDance-Seed/nothing")
