"""Downloading from the hub over real HTTP, from a stand-in on this machine."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, file_download

from seed_oss.errors import HubError, InputError, MissingFileError, UnsafeFileError
from seed_oss.files import open_model_file, read_json, read_weight_map, resolve_model
from tests.files.hub_standin import HubStandin
from tests.files.plain import safetensors_bytes

REPO = "ByteDance-Seed/Seed-OSS-tiny"
OLD_HUB = int(huggingface_hub.__version__.split(".")[0]) < 1
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def tensor_file(*names: str, size: int = 16) -> bytes:
    return safetensors_bytes({name: ("U8", [size], bytes(range(256)) * (size // 256) or bytes(size)) for name in names})


def single(config: dict[str, Any] | None = None) -> dict[str, bytes]:
    return {"config.json": json.dumps(config or {"v": 1}).encode(), "model.safetensors": tensor_file("a")}


def sharded(size: int = 16) -> dict[str, bytes]:
    index = {"metadata": {}, "weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}
    return {
        "config.json": b'{"v": 2}',
        "model.safetensors.index.json": json.dumps(index).encode(),
        SHARDS[0]: tensor_file("a", size=size),
        SHARDS[1]: tensor_file("b", size=size),
    }


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandin]:
    """The stand-in, with this process's huggingface_hub turned towards it."""
    with HubStandin() as standin:
        monkeypatch.setattr(constants, "ENDPOINT", standin.url)
        template = standin.url + "/{repo_id}/resolve/{revision}/{filename}"
        for module in (constants, file_download):  # the second has a copy in versions below 1.0
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "no-tokens"), raising=False)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        _close_session()
        yield standin
        _close_session()


def _close_session() -> None:
    http = import_module("huggingface_hub.utils._http")  # where it has its older name in versions below 1.0
    (http.reset_sessions if hasattr(http, "reset_sessions") else huggingface_hub.close_session)()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


OTHER_FILES = [
    *("modeling_seed.py", "pytorch_model.bin", "README.md", "consolidated.safetensors", ".gitattributes"),
    *("adapter_model.safetensors", "original/config.json", "original/model.safetensors", "onnx/model.onnx"),
]


def test_downloads_what_is_read_and_nothing_else(hub: HubStandin, cache: Path) -> None:
    others = dict.fromkeys(OTHER_FILES, b"x")
    commit = hub.repository(REPO).push({**single(), "tokenizer.json": b"{}", "chat_template.jinja": b"hi", **others})
    folder = resolve_model(REPO, cache_dir=cache)
    assert folder.name == commit
    assert files_in(folder) == {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"}
    assert read_json(folder, "config.json") == {"v": 1}
    assert read_weight_map(folder) == {"a": "model.safetensors"}
    with open_model_file(folder, "model.safetensors") as file:
        assert file.read() == tensor_file("a")


def test_shards_come_by_the_names_in_the_index(hub: HubStandin, cache: Path) -> None:
    files = {**sharded(), "model-00001-of-00009.safetensors": b"stale"}
    hub.repository(REPO).push(files)
    folder = resolve_model(REPO, cache_dir=cache)
    assert files_in(folder) == {"config.json", "model.safetensors.index.json", *SHARDS}
    assert read_weight_map(folder) == {"a": SHARDS[0], "b": SHARDS[1]}


def test_a_second_time_nothing_is_downloaded(hub: HubStandin, cache: Path) -> None:
    hub.repository(REPO).push(sharded())
    first = resolve_model(REPO, cache_dir=cache)
    downloaded = len(hub.downloads())
    assert resolve_model(REPO, cache_dir=cache) == first
    assert len(hub.downloads()) == downloaded


def test_only_the_files_asked_for(hub: HubStandin, cache: Path) -> None:
    hub.repository(REPO).push({**sharded(), "tokenizer.json": b"{}", "tokenizer_config.json": b"{}"})
    folder = resolve_model(REPO, cache_dir=cache, patterns=["tokenizer*.json"])
    assert files_in(folder) == {"tokenizer.json", "tokenizer_config.json"}
    folder = resolve_model(REPO, cache_dir=cache, patterns=["config.json", "*.safetensors"])
    assert files_in(folder) >= {"config.json", *SHARDS}


def test_named_chat_templates(hub: HubStandin, cache: Path) -> None:
    templates = {f"additional_chat_templates/{name}": b"t" for name in ("rag.jinja", "evil.py", "deep/x.jinja")}
    hub.repository(REPO).push({**single(), "tokenizer.json": b"{}", **templates})
    wanted = ["tokenizer.json", "additional_chat_templates/*.jinja"]
    folder = resolve_model(REPO, cache_dir=cache, patterns=wanted)
    assert files_in(folder) == {"tokenizer.json", "additional_chat_templates/rag.jinja"}
    with open_model_file(folder / "additional_chat_templates", "rag.jinja") as file:
        assert file.read() == b"t"
    assert "additional_chat_templates/rag.jinja" in files_in(resolve_model(REPO, cache_dir=cache))


def test_revisions(hub: HubStandin, cache: Path) -> None:
    repository = hub.repository(REPO)
    old = repository.push(single({"v": 1}))
    repository.names["v1.0"] = old
    new = repository.push(single({"v": 2}))
    repository.push(single({"v": 3}), branch="refs/pr/1")
    for revision, version in ((None, 2), ("main", 2), ("v1.0", 1), (old, 1), (new, 2), ("refs/pr/1", 3)):
        assert read_json(resolve_model(REPO, revision=revision, cache_dir=cache), "config.json") == {"v": version}


def test_a_push_between_config_and_weights_does_not_mix_them(hub: HubStandin, cache: Path) -> None:
    repository = hub.repository(REPO)
    repository.push(sharded())
    asked = list.append

    class Log(list[Any]):
        def append(self, request: Any) -> None:
            asked(self, request)
            if request.path.endswith("index.json") and request.method == "GET":
                repository.push(single({"v": 9}))

    hub.log = Log()
    folder = resolve_model(REPO, cache_dir=cache)
    assert read_json(folder, "config.json") == {"v": 2}
    assert read_weight_map(folder) == {"a": SHARDS[0], "b": SHARDS[1]}
    assert repository.commits[repository.names["main"]]["config.json"] == b'{"v": 9}'


def test_subfolders(hub: HubStandin, cache: Path) -> None:
    files = {f"quantized/int8/{name}": data for name, data in single({"v": 5}).items()}
    hub.repository(REPO).push({**single({"v": 1}), **files, "quantized/int8/deeper/config.json": b"{}"})
    folder = resolve_model(REPO, cache_dir=cache, subfolder="quantized/int8")
    assert read_json(folder, "config.json") == {"v": 5}
    assert files_in(folder) == {"config.json", "model.safetensors"}
    assert read_weight_map(folder) == {"a": "model.safetensors"}
    with pytest.raises(MissingFileError, match=r"no config\.json in subfolder 'none'|no subfolder 'none'"):
        resolve_model(REPO, cache_dir=cache, subfolder="none")
    with pytest.raises(UnsafeFileError):
        resolve_model(REPO, cache_dir=cache, subfolder="../../x")


@pytest.mark.skipif(OLD_HUB, reason="huggingface_hub below 1.0 resumes with the next call, not within one")
def test_an_interrupted_download_is_resumed(hub: HubStandin, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)  # 10 MB else: the cut would lie in the first chunk
    files = sharded(size=256 * 64)
    hub.repository(REPO).push(files)
    hub.cuts[SHARDS[1]] = [5000]
    folder = resolve_model(REPO, cache_dir=cache)
    with open_model_file(folder, SHARDS[1]) as file:
        assert file.read() == files[SHARDS[1]]
    ranges = [request.range for request in hub.log if request.path.endswith(SHARDS[1]) and request.method == "GET"]
    assert len(ranges) == 2
    assert ranges == [None, "bytes=4096-"]


def test_a_download_that_was_given_up_goes_on_with_the_next_file(hub: HubStandin, cache: Path) -> None:
    files = sharded(size=256 * 64)
    hub.repository(REPO).push(files)
    hub.broken[SHARDS[1]] = 500
    with pytest.raises(HubError, match=f"download of '{REPO}' on the hub failed: .*500") as caught:
        resolve_model(REPO, cache_dir=cache)
    assert "what works offline" in str(caught.value)
    snapshot = next((cache / "models--ByteDance-Seed--Seed-OSS-tiny" / "snapshots").iterdir())
    with pytest.raises(MissingFileError, match=f"no '{SHARDS[1]}'"):
        read_weight_map(snapshot)
    hub.broken.clear()
    hub.log.clear()
    assert read_weight_map(resolve_model(REPO, cache_dir=cache)) == {"a": SHARDS[0], "b": SHARDS[1]}
    assert hub.downloads() == [SHARDS[1]]


def test_a_repository_that_is_not_there(hub: HubStandin, cache: Path) -> None:
    for token in (None, "abc"):
        with pytest.raises(MissingFileError, match="is not a folder here, and the hub knows no such model") as caught:
            resolve_model("nobody/nothing", cache_dir=cache, token=token)
        assert "'nobody/nothing'" in str(caught.value)


def test_a_revision_that_is_not_there(hub: HubStandin, cache: Path) -> None:
    hub.repository(REPO).push(single())
    for revision in ("v9", "0" * 40):
        with pytest.raises(MissingFileError, match=f"'{revision}' on the hub: there is no such revision"):
            resolve_model(REPO, revision=revision, cache_dir=cache)


def test_a_repository_without_config(hub: HubStandin, cache: Path) -> None:
    hub.repository(REPO).push({"model.safetensors": tensor_file("a")})
    with pytest.raises(MissingFileError, match=r"has no config\.json; is it the right repository"):
        resolve_model(REPO, cache_dir=cache)


def test_a_repository_with_pickled_weights_only(hub: HubStandin, cache: Path) -> None:
    hub.repository(REPO).push({"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    folder = resolve_model(REPO, cache_dir=cache)
    assert files_in(folder) == {"config.json"}
    with pytest.raises(MissingFileError, match="has no weights"):
        read_weight_map(folder)


@pytest.mark.parametrize("shard", ["../../../refs/main", "sub/x.safetensors", "x.bin", "x.safetensors.py"])
def test_an_index_that_names_something_else_is_refused_before_any_download(
    hub: HubStandin, cache: Path, shard: str
) -> None:
    index = json.dumps({"weight_map": {"a": shard}}).encode()
    hub.repository(REPO).push({"config.json": b"{}", "model.safetensors.index.json": index, "sub/x.safetensors": b"x"})
    with pytest.raises(UnsafeFileError):
        resolve_model(REPO, cache_dir=cache)
    assert set(hub.downloads()) == {"config.json", "model.safetensors.index.json"}


def test_private_repositories(hub: HubStandin, cache: Path) -> None:
    hub.repository(REPO, token="hf_secret").push(single())
    for token in (None, False, "hf_wrong"):
        with pytest.raises(MissingFileError, match=r"private; .*give token=") as caught:
            resolve_model(REPO, cache_dir=cache, token=token)
        assert "hf_wrong" not in str(caught.value)
    with pytest.raises(HubError, match="needs a stored token and there is none"):
        resolve_model(REPO, cache_dir=cache, token=True)
    assert read_json(resolve_model(REPO, cache_dir=cache, token="hf_secret"), "config.json") == {"v": 1}
    assert {request.token for request in hub.log if "/resolve/" in request.path} == {"hf_secret"}


def test_gated_repositories(hub: HubStandin, cache: Path) -> None:
    hub.repository(REPO, token="hf_secret", gated=True).push(single())
    with pytest.raises(HubError, match="is gated; accept its terms"):
        resolve_model(REPO, cache_dir=cache)


@pytest.mark.skipif(OLD_HUB, reason="huggingface_hub below 1.0 reads HF_HUB_OFFLINE once per process")
def test_offline_from_the_cache(hub: HubStandin, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = hub.repository(REPO)
    repository.names["v1.0"] = repository.push(sharded())
    online = resolve_model(REPO, cache_dir=cache)
    resolve_model(REPO, cache_dir=cache, revision="v1.0")
    hub.log.clear()
    assert resolve_model(REPO, cache_dir=cache, local_files_only=True) == online
    assert resolve_model(REPO, cache_dir=cache, local_files_only=True, revision="v1.0") == online
    assert resolve_model(REPO, cache_dir=cache, local_files_only=True, revision=online.name) == online
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve_model(REPO, cache_dir=cache) == online
    assert read_weight_map(online) == {"a": SHARDS[0], "b": SHARDS[1]}
    assert not hub.log


def test_offline_without_the_model(hub: HubStandin, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repository(REPO).push(single())
    said = r"the network is off .* it is not in the local cache; load it once with the network on\. what works offline"
    with pytest.raises(HubError, match=said):
        resolve_model(REPO, cache_dir=cache, local_files_only=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=said):
        resolve_model(REPO, cache_dir=cache)
    assert not hub.log


def test_offline_with_a_part_of_the_model(hub: HubStandin, cache: Path) -> None:
    hub.repository(REPO).push({**sharded(), "tokenizer.json": b"{}"})
    folder = resolve_model(REPO, cache_dir=cache, patterns=["config.json"])
    assert resolve_model(REPO, cache_dir=cache, patterns=["config.json"], local_files_only=True) == folder
    with pytest.raises((HubError, MissingFileError), match=r"only part of it is in the local cache|is incomplete"):
        read_weight_map(resolve_model(REPO, cache_dir=cache, local_files_only=True))


def test_an_endpoint_that_cannot_be_reached(hub: HubStandin, cache: Path) -> None:
    hub.repository(REPO).push(single())
    folder = resolve_model(REPO, cache_dir=cache)
    hub.stop()
    assert resolve_model(REPO, cache_dir=cache) == folder  # what was downloaded before goes on working
    with pytest.raises(HubError, match=r"the hub could not be reached .* what works offline"):
        resolve_model("other/model", cache_dir=cache)


@pytest.mark.parametrize("status", [400, 403, 500, 503])
def test_a_hub_that_is_down(hub: HubStandin, cache: Path, status: int) -> None:
    hub.down = status
    with pytest.raises(HubError, match="hub"):
        resolve_model(REPO, cache_dir=cache)


def test_a_network_that_answers_with_its_login_page(hub: HubStandin, cache: Path) -> None:
    hub.login_page = True
    with pytest.raises(HubError, match="failed"):
        resolve_model(REPO, cache_dir=cache)


@pytest.mark.parametrize("revision", ["", "../x", "a..b", "/etc", "-x", "a b", "x" * 300])
def test_malformed_revisions(cache: Path, revision: str) -> None:
    with pytest.raises(InputError, match="must be a branch, tag or commit name"):
        resolve_model(REPO, revision=revision, cache_dir=cache)


@pytest.mark.parametrize(
    "pattern", ["*.py", "*.bin", "*", "../config.json", "sub/*.json", "", "additional_chat_templates/../x.json"]
)
def test_patterns_for_other_files_are_refused(cache: Path, pattern: str) -> None:
    with pytest.raises((InputError, UnsafeFileError)):
        resolve_model(REPO, cache_dir=cache, patterns=[pattern])


def test_environment_variables_of_the_hub_are_honoured(hub: HubStandin, tmp_path: Path) -> None:
    """HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE, in a process of its own."""
    hub.repository(REPO).push(single())
    program = f"from seed_oss.files import resolve_model; print(resolve_model({REPO!r}))"
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    environment = {**os.environ, **settings, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    environment.pop("TRANSFORMERS_OFFLINE", None)

    def run(offline: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", program]
        return subprocess.run(
            command, env={**environment, "HF_HUB_OFFLINE": offline}, capture_output=True, text=True, check=False
        )

    refused = run("1")
    assert "HubError" in refused.stderr
    assert not hub.log
    online = run("0")
    assert online.returncode == 0, online.stderr
    assert online.stdout.startswith(str(tmp_path / "home"))
    seen = len(hub.log)
    assert run("1").stdout == online.stdout
    assert len(hub.log) == seen
