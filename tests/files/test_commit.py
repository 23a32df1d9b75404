"""Saving a folder all at once: ordinary cases. The kills are in test_commit_crash.py and tests/trust."""

import errno
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from seed_oss.errors import CheckpointError, InputError, MissingFileError, UnsafeFileError
from seed_oss.files import (
    INDEX_FILE,
    SINGLE_FILE,
    DirectoryCommit,
    commit,
    model_file_exists,
    open_model_file,
    read_json,
    read_weight_map,
    write_model_file,
)
from seed_oss.files.journal import JOURNAL_FILE
from seed_oss.files.locking import SaveLock
from tests.files.plain import versions_in, write_version

WAYS = pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "journal"])


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "parent" / "out"


def save(target: Path, version: int, num_shards: int = 2, exchange: bool = True) -> None:
    with DirectoryCommit(target, exchange=exchange) as staging:
        write_version(staging, version, num_shards)


def all_names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def nothing_is_left_behind(target: Path) -> bool:
    return not [name for name in all_names(target.parent) if "seed-oss" in name]


@WAYS
def test_a_new_folder(target: Path, exchange: bool) -> None:
    save(target, 1, 2, exchange)
    shards = {f"model-0000{number}-of-00002.safetensors" for number in (1, 2)}
    assert all_names(target) == {"config.json", "generation_config.json", INDEX_FILE, *shards}
    assert versions_in(target) == {1}
    assert nothing_is_left_behind(target)


@WAYS
@pytest.mark.parametrize("shards", [(1, 3), (3, 1), (3, 2), (1, 1)])
def test_nothing_of_the_old_weights_stays(target: Path, exchange: bool, shards: tuple[int, int]) -> None:
    save(target, 1, shards[0], exchange)
    save(target, 2, shards[1], exchange)
    assert versions_in(target) == {2}
    weights = {name for name in all_names(target) if name.startswith("model")}
    assert weights == set(read_weight_map(target).values()) | (
        {INDEX_FILE} - (weights - {INDEX_FILE} - {SINGLE_FILE} or {INDEX_FILE})
    )
    assert nothing_is_left_behind(target)


def test_an_exchange_keeps_the_usual_names(target: Path) -> None:
    save(target, 1, 3)
    save(target, 2, 1)
    assert all_names(target) == {"config.json", "generation_config.json", SINGLE_FILE}


def test_in_place_the_new_weights_get_names_of_their_own(target: Path) -> None:
    save(target, 1, 1, exchange=False)
    assert (target / SINGLE_FILE).exists()
    with open_model_file(target, SINGLE_FILE) as held:
        save(target, 2, 1, exchange=False)
        assert not (target / SINGLE_FILE).exists()
        assert held.read()  # a reader that has the old file open still can
    index = read_json(target, INDEX_FILE)
    assert index["metadata"] == {"total_size": 6 * 8192}
    assert versions_in(target) == {2}


@WAYS
def test_what_is_not_ours_stays(target: Path, exchange: bool) -> None:
    save(target, 1, 2, exchange)
    (target / "README.md").write_text("mine")
    (target / "tokenizer.json").write_text("{}")
    (target / "adapter_model.safetensors").write_bytes(b"a")
    (target / "sub" / "deep").mkdir(parents=True)
    (target / "sub" / "deep" / "file").write_text("deep")
    (target / "sub" / "link").symlink_to("deep/file")
    (target / "out-link").symlink_to("../beside")
    (target.parent / "beside").write_text("beside")
    (target / "model-00009-of-00009.safetensors").mkdir()  # a folder, whatever its name
    os.mkfifo(target / "pipe")
    before = {name: (target / name).lstat().st_ino for name in ("README.md", "adapter_model.safetensors")}
    for version in (2, 3):
        save(target, version, version, exchange)
    assert versions_in(target) == {3}
    assert (target / "README.md").read_text() == "mine"
    assert (target / "sub" / "link").read_text() == "deep"
    assert (target / "out-link").read_text() == "beside"
    assert (target / "model-00009-of-00009.safetensors").is_dir()
    assert (target / "pipe").is_fifo()
    assert before == {name: (target / name).lstat().st_ino for name in before}
    assert nothing_is_left_behind(target)


@WAYS
def test_an_exception_changes_nothing(target: Path, exchange: bool) -> None:
    save(target, 1, 2, exchange)
    before = all_names(target.parent)
    with pytest.raises(FileNotFoundError), DirectoryCommit(target, exchange=exchange) as staging:
        write_version(staging, 2, 1) or (staging / "none").read_bytes()
    assert all_names(target.parent) == before
    assert versions_in(target) == {1}


@WAYS
def test_an_exception_before_the_first_save_leaves_no_folder(target: Path, exchange: bool) -> None:
    with pytest.raises(ZeroDivisionError), DirectoryCommit(target, exchange=exchange):
        raise ZeroDivisionError
    assert not target.exists()


@WAYS
def test_two_saves_at_once_are_refused(target: Path, exchange: bool) -> None:
    with DirectoryCommit(target, exchange=exchange) as staging:
        write_version(staging, 1, 1)
        for other in (True, False):
            with pytest.raises(InputError, match="is being saved by another process or thread"):
                save(target, 2, 1, other)
        with pytest.raises(InputError, match="is being saved"):
            write_model_file(target, "config.json", b"{}")
    assert versions_in(target) == {1}
    save(target, 2, 2, exchange)
    assert versions_in(target) == {2}


def test_saves_from_many_threads_leave_one_whole_version(target: Path) -> None:
    outcomes: list[str] = []

    def attempt(version: int) -> None:
        try:
            save(target, version, 1 + version % 3, exchange=version % 2 == 0)
            outcomes.append("saved")
        except InputError:
            outcomes.append("refused")

    threads = [threading.Thread(target=attempt, args=(version,)) for version in range(1, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 12
    assert "saved" in outcomes
    assert len(versions_in(target)) == 1
    assert nothing_is_left_behind(target)


@WAYS
def test_a_linked_target_stays_a_link(target: Path, tmp_path: Path, exchange: bool) -> None:
    save(target, 1, 1, exchange)
    (tmp_path / "link").symlink_to(target)
    save(tmp_path / "link", 2, 2, exchange)
    assert (tmp_path / "link").is_symlink()
    assert versions_in(target) == {2}


def test_a_link_to_nothing_yet(target: Path, tmp_path: Path) -> None:
    target.parent.mkdir()
    (tmp_path / "link").symlink_to(target)
    save(tmp_path / "link", 1)
    assert versions_in(target) == {1}


@pytest.mark.parametrize("inside", [".", "sub"])
def test_the_working_folder_is_not_pulled_away(target: Path, monkeypatch: pytest.MonkeyPatch, inside: str) -> None:
    save(target, 1)
    (target / "sub").mkdir()
    monkeypatch.chdir(target / inside)
    save(Path(os.path.relpath(target)), 2)
    assert Path.cwd() == target.joinpath(inside).resolve()
    assert versions_in(target) == {2}
    assert target.samefile(".." if inside == "sub" else ".")


def test_a_removed_working_folder_does_not_matter(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    save(target, 1)
    assert versions_in(target) == {1}
    monkeypatch.chdir(tmp_path)


@WAYS
def test_mode_of_the_folder_is_kept(target: Path, exchange: bool) -> None:
    save(target, 1, 1, exchange)
    target.chmod(0o2750)
    save(target, 2, 2, exchange)
    assert target.stat().st_mode & 0o7777 == 0o2750


@WAYS
def test_a_linked_weight_file_is_replaced_and_not_written_through(target: Path, tmp_path: Path, exchange: bool) -> None:
    save(target, 1, 1, exchange)
    (target / SINGLE_FILE).rename(tmp_path / "original")
    (target / SINGLE_FILE).symlink_to(tmp_path / "original")
    before = (tmp_path / "original").read_bytes()
    save(target, 2, 1, exchange)
    assert versions_in(target) == {2}
    assert (tmp_path / "original").read_bytes() == before


def test_a_file_as_target(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for target in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(InputError, match="file"):
            save(target, 1)


@WAYS
def test_a_folder_in_the_way_is_refused(target: Path, exchange: bool) -> None:
    save(target, 1, 1, exchange)
    (target / "config.json").unlink()
    (target / "config.json").mkdir()
    with pytest.raises(InputError, match="a folder where a file of the save has to go"):
        save(target, 2, 1, exchange)
    assert (target / "config.json").is_dir()
    assert nothing_is_left_behind(target)


@WAYS
def test_only_plain_files_are_staged(target: Path, exchange: bool) -> None:
    with pytest.raises(InputError, match="only plain files"), DirectoryCommit(target, exchange=exchange) as staging:
        (staging / "sub").mkdir()
    with pytest.raises(UnsafeFileError), DirectoryCommit(target, exchange=exchange) as staging:
        (staging / ".hidden").touch()
    assert not target.exists()


@pytest.fixture
def failing_exchange(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Folders can be swapped when the save begins, and no longer when it commits (a mount point, say)."""
    calls: list[int] = []
    swap = commit.exchange_folders

    def fail(first: Path, second: Path) -> None:
        calls.append(1)
        raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr(commit, "exchange_folders", fail)
    yield calls
    assert swap is not commit.exchange_folders


@pytest.mark.usefixtures("failing_exchange")
@pytest.mark.parametrize("can_rename", [True, False])
def test_when_the_exchange_fails_the_journal_takes_over(
    target: Path, monkeypatch: pytest.MonkeyPatch, can_rename: bool
) -> None:
    save(target, 1)
    (target / "README.md").write_text("mine")
    (target / "sub").mkdir()
    if not can_rename:
        rename = Path.rename

        def refuse_folders(self: Path, new: Path) -> Path:
            if self.is_dir():
                raise OSError(errno.EXDEV, "another device")
            return rename(self, new)

        monkeypatch.setattr(Path, "rename", refuse_folders)
    save(target, 2)
    assert versions_in(target) == {2}
    assert (target / "README.md").read_text() == "mine"
    assert (target / "sub").is_dir()
    assert nothing_is_left_behind(target)


def test_what_others_make_just_before_the_exchange_stays(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(target, 1)
    (target / "runs").mkdir()
    swap = commit.exchange_folders

    def late(first: Path, second: Path) -> None:
        (target / "late").write_text("late")
        (target / "runs" / "late").write_text("late")
        swap(first, second)

    monkeypatch.setattr(commit, "exchange_folders", late)
    save(target, 2)
    assert versions_in(target) == {2}
    assert (target / "late").read_text() == (target / "runs" / "late").read_text() == "late"
    assert nothing_is_left_behind(target)


def test_what_others_made_before_a_kill_behind_the_exchange_comes_back(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(target, 1)
    with monkeypatch.context() as patch:
        patch.setattr(commit, "move_missing", lambda *args: None)
        patch.setattr(commit.shutil, "rmtree", lambda *args, **kwargs: None)
        save(target, 2)
    old = next(path for path in target.parent.iterdir() if path != target)
    assert versions_in(old) == {1}
    (old / "late").write_text("late")
    save(target, 3)
    assert versions_in(target) == {3}
    assert (target / "late").read_text() == "late"
    assert nothing_is_left_behind(target)


def test_a_save_is_refused_until_the_one_before_has_cleaned_up(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(target, 1)
    sweep = commit.move_missing
    refused: list[bool] = []

    def meanwhile(*args: object) -> None:
        with pytest.raises(InputError, match="is being saved"):
            save(target, 3)
        refused.append(True)
        sweep(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(commit, "move_missing", meanwhile)
    save(target, 2)
    assert refused
    assert versions_in(target) == {2}


def test_files_that_cannot_be_linked_go_by_the_journal(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(target, 1)
    (target / "README.md").write_text("mine")

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    save(target, 2)
    assert versions_in(target) == {2}
    assert (target / "README.md").read_text() == "mine"
    assert nothing_is_left_behind(target)


@WAYS
def test_a_full_disk_changes_nothing(target: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool) -> None:
    save(target, 1, 2, exchange)
    before = all_names(target.parent)

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(commit, "fsync_file", full)
    with pytest.raises(OSError, match="No space left"):
        save(target, 2, 2, exchange)
    assert all_names(target.parent) == before
    assert versions_in(target) == {1}


def test_an_interrupt_right_after_the_commit_point_takes_it_back(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(target, 1, 2, exchange=False)
    write = commit.write_journal

    def interrupted(*args: object) -> None:
        write(*args)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(commit, "write_journal", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(target, 2, 2, exchange=False)
    assert versions_in(target) == {1}
    assert nothing_is_left_behind(target)


def unfinished(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a folder as a kill between the commit point and the moving leaves it: version 2 over version 1."""
    save(target, 1, 2, exchange=False)
    with monkeypatch.context() as patch:
        patch.setattr(commit, "finish", lambda *args: None)
        save(target, 2, 3, exchange=False)
    assert (target / JOURNAL_FILE).exists()


def test_readers_see_the_new_version_through_an_unfinished_save(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unfinished(target, monkeypatch)
    assert versions_in(target) == {2}
    assert not model_file_exists(target, "model-00001-of-00002.safetensors")
    with pytest.raises(MissingFileError):
        open_model_file(target, "model-00001-of-00002.safetensors")
    save(target, 3)
    assert versions_in(target) == {3}
    assert nothing_is_left_behind(target)


def test_one_file_written_over_an_unfinished_save(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unfinished(target, monkeypatch)
    write_model_file(target, "config.json", b'{"version": 7}')
    assert read_json(target, "config.json") == {"version": 7}
    assert not (target / JOURNAL_FILE).exists()


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"staging": "../other"},
        {"staging": "sub"},
        {"install": ["../../secret"]},
        {"remove": ["/etc/passwd"]},
        {"install": "config.json"},
        {"extra": 1},
    ],
)
def test_a_malformed_journal_is_refused(
    target: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
) -> None:
    unfinished(target, monkeypatch)
    record = json.loads((target / JOURNAL_FILE).read_text())
    (target / JOURNAL_FILE).write_text(json.dumps({**record, **change}))
    with pytest.raises(CheckpointError):
        open_model_file(target, "config.json")
    with pytest.raises(CheckpointError):
        save(target, 3)


def test_a_journal_that_is_a_link_or_pipe_is_refused(target: Path, tmp_path: Path) -> None:
    save(target, 1)
    (target / JOURNAL_FILE).symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="interrupted save"):
        open_model_file(target, "config.json")
    (target / JOURNAL_FILE).unlink()
    os.mkfifo(target / JOURNAL_FILE)
    with pytest.raises(CheckpointError, match="interrupted save"):
        open_model_file(target, "config.json")


def test_a_hostile_journal_removes_nothing_but_weights(target: Path) -> None:
    save(target, 1, 1)
    (target / "README.md").write_text("mine")
    (target / (".seed-oss-save-" + "0" * 16)).mkdir()
    record = {
        "format": 1,
        "staging": ".seed-oss-save-" + "0" * 16,
        "install": [],
        "remove": ["README.md", "config.json"],
    }
    (target / JOURNAL_FILE).write_text(json.dumps(record))
    save(target, 2, 1)
    assert (target / "README.md").read_text() == "mine"
    assert versions_in(target) == {2}


def test_one_file_at_a_time(tmp_path: Path) -> None:
    write_model_file(tmp_path / "new", "config.json", b"{}")
    write_model_file(tmp_path / "new", "config.json", b'{"a": 1}')
    assert read_json(tmp_path / "new", "config.json") == {"a": 1}
    assert all_names(tmp_path / "new") == {"config.json"}
    with pytest.raises(UnsafeFileError):
        write_model_file(tmp_path / "new", "../config.json", b"{}")
    (tmp_path / "new" / "folder").mkdir()
    with pytest.raises(InputError, match="is a folder where"):
        write_model_file(tmp_path / "new", "folder", b"{}")


def test_a_lock_file_left_by_a_kill_does_not_block(target: Path) -> None:
    save(target, 1)
    (target / ".seed-oss-lock").touch()
    save(target, 2)
    assert versions_in(target) == {2}
    assert nothing_is_left_behind(target)


def test_without_locks_leftovers_are_not_touched(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(target, 1)
    leftover = target / (".seed-oss-save-" + "1" * 16)
    leftover.mkdir()
    monkeypatch.setattr(SaveLock, "_try_lock", lambda self: False)
    save(target, 2, exchange=False)
    assert versions_in(target) == {2}
    assert leftover.is_dir()
