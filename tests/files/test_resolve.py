"""From what a user writes to a folder, without the hub."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from seed_oss.errors import InputError, MissingFileError, UnsafeFileError, UnsupportedModelError
from seed_oss.files import NAMED_MODELS, resolve_model


def test_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for written in (tmp_path / "org", str(tmp_path / "org"), "org", "./org", "org/", "org/name", Path("org/name")):
        assert resolve_model(written).resolve() == Path(written).resolve()


def test_subfolders(tmp_path: Path) -> None:
    (tmp_path / "model" / "a" / "b").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "model" / "inside").symlink_to("a/b")
    (tmp_path / "model" / "out").symlink_to("../outside")
    root = tmp_path / "model"
    for none in (None, ""):
        assert resolve_model(root, subfolder=none) == root
    for inside in ("a", "a/b", "a/b/", "inside"):
        assert resolve_model(root, subfolder=inside) == root / inside
    with pytest.raises(MissingFileError, match="has no subfolder 'c'"):
        resolve_model(root, subfolder="c")
    for unsafe in ("..", "a/../..", "a//b", "out", ".hidden", "a\\b", "../outside", "/", "\x00"):
        with pytest.raises(UnsafeFileError):
            resolve_model(root, subfolder=unsafe)
    with pytest.raises(UnsafeFileError, match="must be a string"):
        resolve_model(root, subfolder=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "written", ["name", "./org/name", "/org/name", "a/b/c", "org/", "org\\name", "../x", "or g/na me"]
)
def test_neither_a_folder_nor_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingFileError, match=r"not a folder here .*not a hub id either.*organisation/name.*demo"):
        resolve_model(written)


def test_a_path_object_is_never_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingFileError, match="not a folder here"):
        resolve_model(Path("org/name"))


@pytest.mark.parametrize("written", ["", "a\x00b"])
def test_not_a_name_at_all(written: str) -> None:
    with pytest.raises(InputError, match="is needed, got"):
        resolve_model(written)


@pytest.mark.parametrize("written", [None, 3, b"x", ["a"]])
def test_not_text(written: object) -> None:
    with pytest.raises(InputError, match="model folder or hub id"):
        resolve_model(written)  # type: ignore[arg-type]


def test_a_file(tmp_path: Path) -> None:
    for name, words in (("x.gguf", "seed-oss convert"), ("model.safetensors", "give the folder that holds it")):
        (tmp_path / name).touch()
        with pytest.raises(UnsupportedModelError, match=words):
            resolve_model(tmp_path / name)
    (tmp_path / "dangling").symlink_to("nothing")
    with pytest.raises(MissingFileError, match="a link to something missing"):
        resolve_model(tmp_path / "dangling")


def test_named_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("prepared")
    module.prepare = lambda: tmp_path / "converted"  # type: ignore[attr-defined]
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "prepared", module)
    monkeypatch.setitem(NAMED_MODELS, "demo", "prepared:prepare")
    assert resolve_model("demo") == tmp_path / "converted"
    assert resolve_model("./demo") == Path("demo")
    assert resolve_model(Path("demo")) == Path("demo")
