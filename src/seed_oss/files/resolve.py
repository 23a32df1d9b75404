"""From what a user writes (a folder, a hub id, a name) to a model folder on this machine."""

import os
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from seed_oss.errors import CheckpointError, InputError, MissingFileError, UnsafeFileError, UnsupportedModelError
from seed_oss.files.named_models import GGUF_TEXTS, NAMED_FILES, NAMED_MODELS
from seed_oss.files.names import check_subfolder, short

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)


def resolve_model(
    path_or_id: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    subfolder: str | None = None,
    patterns: Sequence[str] | None = None,
) -> Path:
    """Find the folder of a model, downloading it from the hub where needed.

    Args:
        path_or_id: A local folder, a named model ("demo"; write "./demo" for a folder of that name), or a hub id
            "organisation/name".
        revision: Branch, tag or commit on the hub; None means "main".
        cache_dir: Folder of the hub cache; None means huggingface_hub's own.
        token: Token for private models, or True for the stored one.
        local_files_only: Use what is in the hub cache and no network; the environment variable HF_HUB_OFFLINE=1 does
            the same.
        subfolder: Folder inside the model folder or repository that holds the files.
        patterns: Names of the files needed; None means all that seed_oss reads. Only the hub uses it.

    Returns:
        The folder that holds the files.

    Raises:
        MissingFileError: Nothing of this name exists, here or on the hub.
        HubError: The hub could not be reached or refused.
        UnsafeFileError: The subfolder leads out of the model folder.
    """
    components = check_subfolder(subfolder)
    text = _as_text(path_or_id)
    if isinstance(path_or_id, str) and text in NAMED_MODELS:
        return _inside(_prepare_named(text), components)
    folder = Path(text)
    if _is_folder(folder):
        return _inside(folder, components)
    if os.path.lexists(folder):
        raise _not_a_folder(folder)
    if not isinstance(path_or_id, str) or not _HUB_ID.fullmatch(text) or ".." in text or "--" in text:
        raise MissingFileError(_neither_message(text))
    from seed_oss.files.hub import download_model

    snapshot = download_model(
        text,
        revision=revision,
        cache_dir=cache_dir,
        token=token,
        local_files_only=local_files_only,
        subfolder="/".join(components),
        patterns=patterns,
    )
    return _inside(snapshot, components)


def gguf_file(path_or_id: str | os.PathLike[str]) -> Path | None:
    """What a user wrote for a model, where that is a GGUF file on this machine, or names one; else None.

    Raises:
        InputError: It is no text and no path.
        MissingExtraError, MissingFileError: It is the name of a file that is not installed.
    """
    if isinstance(path_or_id, str) and path_or_id in NAMED_FILES:
        return Path(_looked_up(NAMED_FILES[path_or_id])())
    path = Path(_as_text(path_or_id))
    try:
        return path if path.suffix.lower() == ".gguf" and path.is_file() else None
    except OSError:  # a name that is too long, a folder that may not be looked into
        return None


def gguf_texts(path: Path, names: Sequence[str]) -> dict[str, bytes]:
    """What a checkpoint folder would hold beside the weights, made from a GGUF file.

    Args:
        path: The file.
        names: Those wanted, such as "config.json".

    Returns:
        Name to content, of those that there are.

    Raises:
        MissingExtraError: The `gguf` package is not installed.
        UnsupportedModelError, CheckpointError, ConfigError, TokenizerError: The file cannot be read.
    """
    return _looked_up(GGUF_TEXTS)(path, names)


def _as_text(value: object) -> str:
    text: object = os.fspath(cast("os.PathLike[str]", value)) if isinstance(value, os.PathLike) else value
    if isinstance(text, str) and text and "\x00" not in text:
        return text
    raise InputError(f"a model folder or hub id is needed, got {short(text)}")


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long, a folder that may not be looked into
        return False


def _prepare_named(name: str) -> Path:
    return Path(_looked_up(NAMED_MODELS[name])())


def _looked_up(place: str) -> Any:
    """The function at "module:function"."""
    module_name, _, function_name = place.partition(":")
    return getattr(import_module(module_name), function_name)


def _inside(folder: Path, components: tuple[str, ...]) -> Path:
    result = folder.joinpath(*components)
    if components:
        if not result.is_dir():
            raise MissingFileError(f"{folder} has no subfolder {'/'.join(components)!r}")
        if not Path(os.path.realpath(result)).is_relative_to(os.path.realpath(folder)):
            raise UnsafeFileError(f"subfolder {'/'.join(components)!r} is a link that leaves {folder}")
    return result


def _not_a_folder(path: Path) -> CheckpointError | MissingFileError:
    if not path.exists():
        return MissingFileError(f"{path} is a link to something missing; give the folder of a checkpoint")
    if path.suffix == ".gguf":
        return UnsupportedModelError(
            f"{path} is a GGUF file where a folder is needed; convert it first: seed-oss convert {path} OUT_DIR"
        )
    return UnsupportedModelError(f"{path} is a file; give the folder that holds it (with config.json)")


def _neither_message(text: str) -> str:
    return (
        f"{short(text, 200)} is not a folder here (looked in {Path.cwd()}), and not a hub id either, which has the "
        f"form organisation/name; named models: {', '.join((*NAMED_MODELS, *NAMED_FILES))}"
    )
