"""Entries of ours in a model folder that somebody else made: they lead nowhere else, and nothing is lost to them."""

import json
import os
from pathlib import Path

import pytest

from seed_oss.errors import CheckpointError, InputError, UnsafeFileError
from seed_oss.files import DirectoryCommit, model_file_exists, open_model_file, write_model_file
from seed_oss.files.journal import JOURNAL_FILE
from seed_oss.files.locking import LOCK_FILE

STAGING = ".seed-oss-save-0123456789abcdef"
NAMES = ["config.json", "keys.txt"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with a journal that names a staging folder; the latter is not there yet."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    journal = {"format": 1, "staging": STAGING, "install": NAMES, "remove": []}
    (folder / JOURNAL_FILE).write_text(json.dumps(journal))
    return folder


def make_private(folder: Path) -> Path:
    private = folder.parent / "private"
    private.mkdir()
    for name in NAMES:
        (private / name).write_text(f"private {name}")
    return private


def save(folder: Path) -> None:
    with DirectoryCommit(folder) as staging:
        (staging / "config.json").write_text('{"a": 1}')


def test_a_staging_folder_that_is_a_link_is_not_followed(folder: Path) -> None:
    private = make_private(folder)
    (folder / STAGING).symlink_to("../private")
    for read in (open_model_file, model_file_exists):
        with pytest.raises(CheckpointError, match="interrupted save"):
            read(folder, "keys.txt")
    with pytest.raises(CheckpointError, match="interrupted save"):
        save(folder)
    assert sorted(path.name for path in private.iterdir()) == NAMES


def test_a_staging_folder_exchanged_for_a_link_is_not_followed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_private(folder)
    (folder / STAGING).symlink_to("../private")
    monkeypatch.setattr("seed_oss.files.opening.locate", lambda folder, name: folder / STAGING / name)
    with pytest.raises((CheckpointError, FileNotFoundError)):
        open_model_file(folder, "keys.txt")


def test_a_staging_folder_that_is_a_file(folder: Path) -> None:
    (folder / STAGING).write_text("x")
    with pytest.raises(CheckpointError, match="interrupted save"):
        open_model_file(folder, "config.json")
    with pytest.raises(CheckpointError, match="interrupted save"):
        save(folder)


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_only_regular_files_are_moved(folder: Path, kind: str) -> None:
    private = make_private(folder)
    staged = folder / STAGING
    staged.mkdir()
    (staged / "config.json").write_text('{"staged": 1}')
    if kind == "link":
        (staged / "keys.txt").symlink_to(private / "keys.txt")
    elif kind == "folder":
        (staged / "keys.txt").mkdir()
    else:
        os.mkfifo(staged / "keys.txt")
    with pytest.raises(CheckpointError, match="not a regular file"):
        save(folder)
    assert (folder / "config.json").read_text() == "{}"
    assert sorted(path.name for path in private.iterdir()) == NAMES


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_a_lock_that_is_no_file(tmp_path: Path, kind: str) -> None:
    lock = tmp_path / LOCK_FILE
    if kind == "folder":
        lock.mkdir()
    elif kind == "link":
        lock.symlink_to(tmp_path / "elsewhere")
    else:
        os.mkfifo(lock)
    with pytest.raises(UnsafeFileError, match="not a regular file"):
        save(tmp_path)
    with pytest.raises(UnsafeFileError, match="not a regular file"):
        write_model_file(tmp_path, "config.json", b"{}")
    assert not (tmp_path / "elsewhere").exists()


def test_a_zero_byte_in_a_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="zero byte"):
        save(tmp_path / "a\0b")
    with pytest.raises(InputError, match="zero byte"):
        write_model_file(f"{tmp_path}/a\0b", "config.json", b"{}")
