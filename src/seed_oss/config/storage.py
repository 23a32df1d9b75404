"""Config files on disk: found, read strictly, and replaced in one step."""

import os
import tempfile
from pathlib import Path
from typing import Any

from seed_oss.errors import InputError
from seed_oss.files import parse_json, read_json, resolve_model


HUB_ARGUMENTS = ("revision", "cache_dir", "token", "local_files_only", "subfolder")
"""Arguments of from_pretrained that say where to look."""


def load_config_file(path_or_id: str | os.PathLike[str], file_name: str, **where: Any) -> dict[str, Any]:
    """Read one JSON file of a model.

    Args:
        path_or_id: model folder, hub id, named model, or the JSON file itself.
        file_name: name inside the folder.
        where: revision, cache_dir, token, local_files_only and subfolder, for `resolve_model`.

    Raises:
        MissingFileError, HubError, CheckpointError: see `resolve_model` and `read_json`.
    """
    path = Path(path_or_id)
    if path.suffix == ".json" and path.is_file():
        return read_json(path.parent, path.name)
    return read_json(resolve_model(path_or_id, patterns=[file_name], **where), file_name)


def write_config_file(save_directory: str | os.PathLike[str], file_name: str, content: str) -> None:
    """Write one JSON file into a folder (made if missing): the old file stays whole until the new one is.

    Raises:
        InputError: the folder is a file.
        CheckpointError: the content is not what `read_json` accepts.
    """
    parse_json(content, source=file_name)
    folder = Path(save_directory)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give a folder to save {file_name} in")
    folder.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{file_name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(folder / file_name)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
