"""Opening files of a model folder: names, links, kinds of file."""

import os
import socket
from pathlib import Path

import pytest

from seed_oss.errors import CheckpointError, MissingFileError, UnsafeFileError
from seed_oss.files import model_file_exists, open_model_file, opening, read_json

HASH = "a" * 64


@pytest.fixture(params=["descriptors", "resolved paths"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with the Linux way of opening, and with the one for systems that lack O_NOFOLLOW and dir_fd."""
    monkeypatch.setattr(opening, "_HAS_DIR_FD", request.param == "descriptors")


pytestmark = pytest.mark.usefixtures("either_way")


def content(root: Path, name: str) -> bytes:
    with open_model_file(root, name) as file:
        return file.read()


def test_opens_a_regular_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"{}")
    assert content(tmp_path, "config.json") == b"{}"
    assert content(Path(os.path.relpath(tmp_path)), "config.json") == b"{}"
    assert model_file_exists(tmp_path, "config.json")
    assert not model_file_exists(tmp_path, "other.json")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            ".",
            "..",
            "../config.json",
            "a/b",
            "/etc/passwd",
            "a\\b",
            "C:x",
            "a:stream",
            "a\x00b",
            "a\nb",
            "x" * 256,
        ),
        *(".hidden", "~", "\ud800", "a*", "a?", "model.safetensors.incomplete", "\x7f"),
    ],
)
def test_refuses_names_that_are_not_plain(tmp_path: Path, name: str) -> None:
    if name == "~":  # only a shell expands it
        assert not model_file_exists(tmp_path, name)
        return
    with pytest.raises(UnsafeFileError) as caught:
        open_model_file(tmp_path, name)
    assert len(str(caught.value)) < 400
    with pytest.raises(UnsafeFileError):
        model_file_exists(tmp_path, name)


@pytest.mark.parametrize("name", [None, 3, ["a"], b"a"])
def test_refuses_names_that_are_not_text(tmp_path: Path, name: object) -> None:
    with pytest.raises(UnsafeFileError, match="must be a string"):
        open_model_file(tmp_path, name)  # type: ignore[arg-type]


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"has no config\.json"):
        open_model_file(tmp_path, "config.json")
    with pytest.raises(MissingFileError, match="is not a folder"):
        open_model_file(tmp_path / "none", "config.json")
    (tmp_path / "file").touch()
    with pytest.raises(MissingFileError, match="is not a folder"):
        open_model_file(tmp_path / "file", "config.json")


def test_refuses_what_is_not_a_regular_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for name in ("folder", "pipe", "socket"):
            with pytest.raises(UnsafeFileError, match="regular file is required"):
                open_model_file(tmp_path, name)


def test_a_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "weights").write_bytes(b"w")
    (tmp_path / "model.safetensors").symlink_to("real/weights")
    (tmp_path / "again").symlink_to(tmp_path / "model.safetensors")
    assert content(tmp_path, "model.safetensors") == b"w"
    assert content(tmp_path, "again") == b"w"


def test_a_linked_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "config.json").write_bytes(b"{}")
    (tmp_path / "model").symlink_to("real")
    assert content(tmp_path / "model", "config.json") == b"{}"


@pytest.mark.parametrize("target", ["../secret", "/dev/zero", "/dev/tty", "../other/../secret", "sub/secret"])
def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path, target: str) -> None:
    root = tmp_path / "model"
    root.mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "secret").write_bytes(b"s")
    (root / "sub").symlink_to("..")
    (root / "config.json").symlink_to(target)
    with pytest.raises(UnsafeFileError, match="leaves the model folder"):
        open_model_file(root, "config.json")
    assert model_file_exists(root, "config.json")  # so that opening reports it


def test_a_folder_whose_name_begins_like_the_root_is_outside(tmp_path: Path) -> None:
    for name in ("model", "model2"):
        (tmp_path / name).mkdir()
    (tmp_path / "model2" / "secret").touch()
    (tmp_path / "model" / "config.json").symlink_to("../model2/secret")
    with pytest.raises(UnsafeFileError, match="leaves the model folder"):
        open_model_file(tmp_path / "model", "config.json")


def test_loops_and_dangling_links(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nothing")
    with pytest.raises(UnsafeFileError, match="cannot be followed"):
        open_model_file(tmp_path, "loop")
    with pytest.raises(MissingFileError, match="a link to a missing file"):
        open_model_file(tmp_path, "dangling")


def test_a_pipe_behind_a_link_inside_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "config.json").symlink_to("pipe")
    with pytest.raises(UnsafeFileError, match="regular file"):
        open_model_file(tmp_path, "config.json")


def hub_cache(tmp_path: Path) -> tuple[Path, Path]:
    """A repository of a hub cache and its snapshot."""
    repository = tmp_path / "hub" / "models--org--name"
    snapshot = repository / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    return repository, snapshot


def test_hub_cache_links_into_their_own_blobs(tmp_path: Path) -> None:
    repository, snapshot = hub_cache(tmp_path)
    (repository / "blobs" / HASH).write_bytes(b"{}")
    (snapshot / "config.json").symlink_to(f"../../blobs/{HASH}")
    (snapshot / "sub").mkdir()
    (snapshot / "sub" / "config.json").symlink_to(f"../../../blobs/{HASH}")
    assert content(snapshot, "config.json") == b"{}"
    assert content(snapshot / "sub", "config.json") == b"{}"


def test_hub_cache_links_into_the_shared_store(tmp_path: Path) -> None:
    repository, snapshot = hub_cache(tmp_path)
    store = repository.parent / "blobs" / HASH[:2]
    store.mkdir(parents=True)
    (store / HASH).write_bytes(b"w")
    (repository / "blobs" / "etag").symlink_to(f"../../blobs/{HASH[:2]}/{HASH}")
    (snapshot / "model.safetensors").symlink_to("../../blobs/etag")
    assert content(snapshot, "model.safetensors") == b"w"


@pytest.mark.parametrize(
    "target",
    [
        "../../refs/main",
        f"../../blobs/{HASH}.incomplete",
        "../../blobs/folder/x",
        f"../../../models--org--other/blobs/{HASH}",
        "../../../blobs/aa/short",
        f"../../../blobs/bb/{HASH}",
        "../other/config.json",
    ],
)
def test_other_links_of_a_hub_cache_are_refused(tmp_path: Path, target: str) -> None:
    _, snapshot = hub_cache(tmp_path)
    place = Path(os.path.normpath(snapshot / target))
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"{}")
    (snapshot / "config.json").symlink_to(target)
    with pytest.raises(UnsafeFileError, match="leaves the model folder"):
        open_model_file(snapshot, "config.json")


def test_blobs_that_are_a_link_elsewhere_are_refused(tmp_path: Path) -> None:
    repository, snapshot = hub_cache(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / HASH).write_bytes(b"{}")
    (repository / "blobs").rmdir()
    (repository / "blobs").symlink_to(tmp_path / "elsewhere")
    (snapshot / "config.json").symlink_to(f"../../blobs/{HASH}")
    with pytest.raises(UnsafeFileError):
        open_model_file(snapshot, "config.json")


def test_a_blob_that_is_gone_says_that_the_copy_is_incomplete(tmp_path: Path) -> None:
    _, snapshot = hub_cache(tmp_path)
    (snapshot / "config.json").symlink_to(f"../../blobs/{HASH}")
    for name in ("config.json", "other.json"):
        with pytest.raises(MissingFileError, match="copy from the hub is incomplete"):
            open_model_file(snapshot, name)


def test_a_file_exchanged_for_a_link_after_the_check_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "model"
    root.mkdir()
    (tmp_path / "secret").write_bytes(b"s")
    (root / "config.json").write_bytes(b"{}")

    check = opening._check_regular

    def check_then_swap(mode: int, shown: Path) -> None:
        check(mode, shown)
        if not (root / "config.json").is_symlink():
            (root / "config.json").unlink()
            (root / "config.json").symlink_to("../secret")

    monkeypatch.setattr(opening, "_check_regular", check_then_swap)
    with pytest.raises(UnsafeFileError):
        open_model_file(root, "config.json")


def test_a_file_exchanged_for_a_pipe_after_the_check_does_not_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_bytes(b"{}")
    check = opening._check_regular

    def check_then_swap(mode: int, shown: Path) -> None:
        check(mode, shown)
        if (tmp_path / "config.json").is_file():
            (tmp_path / "config.json").unlink()
            os.mkfifo(tmp_path / "config.json")

    monkeypatch.setattr(opening, "_check_regular", check_then_swap)
    with pytest.raises(UnsafeFileError):
        open_model_file(tmp_path, "config.json")


def as_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run as root, whom permissions do not bind: refuse on its behalf."""

    def refuse(path: object, *args: object, **kwargs: object) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)


def test_a_file_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").touch()
    as_somebody_else(monkeypatch)
    with pytest.raises(CheckpointError, match="cannot be opened: Permission denied"):
        open_model_file(tmp_path, "config.json")


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"{}")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "folder").mkdir()
    (tmp_path / "c").symlink_to("/dev/null")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for name in ("a", "b", "c", "folder", "missing", "../x"):
        try:
            open_model_file(tmp_path, name).close()
        except (UnsafeFileError, MissingFileError):
            continue
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_read_json_wants_an_object(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"x": 1}')
    (tmp_path / "b.json").write_text("[1]")
    assert read_json(tmp_path, "a.json") == {"x": 1}
    with pytest.raises(ValueError, match="must hold a JSON object, got list"):
        read_json(tmp_path, "b.json")
    with pytest.raises(ValueError, match="larger than 4 bytes"):
        read_json(tmp_path, "a.json", max_bytes=4)
