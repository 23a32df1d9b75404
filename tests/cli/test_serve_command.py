"""`seed-oss serve`: what its options become, and what is refused before anything starts."""

import os
from pathlib import Path

import pytest

from seed_oss.server import serve as serving
from seed_oss.server.settings import ServeSettings
from tests.cli.conftest import Run

KEY = "key-" + "a" * 20


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[ServeSettings]:
    """What a server would have been started with."""
    found: list[ServeSettings] = []

    def serve(settings: ServeSettings) -> int:
        found.append(settings)
        return 3

    monkeypatch.setattr(serving, "serve", serve)
    monkeypatch.delenv("SEED_OSS_API_KEY", raising=False)
    return found


def test_the_defaults_are_the_servers_own(run: Run, served: list[ServeSettings]):
    assert run("serve", "demo").code == 3, "the server's exit code is the command's"
    (settings,) = served
    assert settings == ServeSettings(settings.spec)
    assert settings.spec == type(settings.spec)("demo")


def test_every_option_arrives(run: Run, served: list[ServeSettings], tmp_path: Path):
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    keys.chmod(0o600)
    options = (
        "--host 0.0.0.0 --port 0 --served-model-name a --served-model-name b --cors-origin https://c --quantization "
    )
    options += (
        "int4 --threads 2 --max-num-seqs 3 --max-model-len 100 --max-num-batched-tokens 64 --kv-cache-memory 1.5GiB "
    )
    options += (
        "--kv-cache-dtype int8 --thinking-budget 512 --loop-guard --hang-timeout 9 --drain-timeout 0 --queue-timeout "
    )
    options += "7 --progress-timeout 8 --total-timeout 10 --max-connections 5 --max-body-size 1MB --header-timeout 1 "
    options += "--stream-interval 0.5 "
    options += (
        "--body-timeout 2 --idle-timeout 3 --stream-keep-alive 4 --start-timeout 5 --health-timeout 6 --dtype bfloat16 "
    )
    options += "--no-cache-turns --max-num-waiting 11 --max-num-queued-tokens 1000 "
    options += "--grammar-timeout 0.5 --grammar-cache-size 8MiB --limit json-depth=9 --limit schema-depth=3"
    run("serve", "m", *options.split(), "--api-key-file", keys, "--cache-dir", tmp_path, "--cache-dir-size", "2GB")
    (settings,) = served
    spec, limits = settings.spec, settings.limits
    assert (settings.host, settings.port, settings.names, settings.origins) == (
        "0.0.0.0",
        0,
        ("a", "b"),
        ("https://c",),
    )
    assert (settings.keys, settings.thinking_budget, settings.loop_guard) == ((KEY,), 512, True)
    assert not settings.cache_turns
    assert (spec.model, spec.quantization, spec.threads, spec.dtype) == ("m", "int4", 2, "bfloat16")
    assert (spec.max_num_seqs, spec.max_model_len, spec.max_num_batched_tokens) == (3, 100, 64)
    assert (spec.max_num_waiting, spec.max_num_queued_tokens) == (11, 1000)
    assert (spec.kv_cache_memory, spec.kv_cache_dtype) == (3 * 2**29, "int8")
    assert (spec.cache_dir, spec.cache_dir_bytes) == (str(tmp_path), 2 * 10**9)
    assert (spec.queue_s, spec.no_progress_s, spec.total_s, spec.stream_interval_s) == (7.0, 8.0, 10.0, 0.5)
    assert (spec.grammar_s, spec.grammar_cache_bytes) == (0.5, 8 * 2**20)
    assert (settings.requests.json_depth, settings.requests.schema_depth) == (9, 3)
    assert (limits.max_connections, limits.max_body_bytes) == (5, 10**6)
    assert (limits.headers_s, limits.body_s, limits.keep_alive_s) == (1.0, 2.0, 3.0)
    assert (settings.process.start_s, settings.process.hang_s) == (5.0, 9.0)
    assert (settings.health_s, settings.drain_s, settings.keep_alive_s) == (6.0, 0.0, 4.0)
    assert KEY not in repr(settings)


def test_folders_arrive_as_they_were_written(run: Run, served: list[ServeSettings], tmp_path: Path):
    run("serve", "m", "--lora", "a=some/where", "--lora", f"b={tmp_path}", "--cache-dir", "kept")
    assert served[0].spec.lora_folders == {"a": "some/where", "b": str(tmp_path)}
    assert served[0].spec.cache_dir == "kept"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--lora folder", "write NAME=FOLDER"),
        ("--lora a=b --lora a=c", "names 'a' twice"),
        ("--served-model-name a --lora a=b", "give the adapter another one"),
        ("--lora m=b", "give the adapter another one"),
    ],
)
def test_names_of_adapters_that_cannot_be(run: Run, options: str, said: str):
    outcome = run("serve", "m", *options.split())
    assert outcome.code == 1
    assert said in outcome.err


def test_keys_come_from_the_environment(run: Run, served: list[ServeSettings], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SEED_OSS_API_KEY", KEY)
    run("serve", "demo")
    assert served[0].keys == (KEY,)


@pytest.mark.parametrize("size", ["4", "4KB", "4 MiB", "0.5M", "8MiB"])
def test_sizes(run: Run, served: list[ServeSettings], size: str):
    run("serve", "demo", "--max-body-size", size)
    known = {"4": 4, "4KB": 4000, "4 MiB": 4 * 2**20, "0.5M": 500_000, "8MiB": 2**23}
    assert served[0].limits.max_body_bytes == known[size]


@pytest.mark.parametrize("size", ["0", "-1", "8.1MiB", "1GiB", "big", "1e3", "4XB", "9" * 400])
def test_sizes_that_are_none(run: Run, served: list[ServeSettings], size: str):
    outcome = run("serve", "demo", f"--max-body-size={size}")
    assert (outcome.code, served) == (2, [])
    assert "--max-body-size" in outcome.err


def test_a_public_address_without_a_key(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SEED_OSS_API_KEY", raising=False)
    outcome = run("serve", "demo", "--host", "0.0.0.0")
    assert outcome.code == 1
    assert outcome.err.startswith("error: others can reach 0.0.0.0")


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX's")
def test_a_file_of_keys_that_others_may_read(run: Run, served: list[ServeSettings], tmp_path: Path):
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    keys.chmod(0o644)
    outcome = run("serve", "demo", "--api-key-file", keys)
    assert (outcome.code, served) == (1, [])
    assert "chmod 600" in outcome.err
    assert KEY not in outcome.err
