"""Reading the JSON files of a model folder."""

from pathlib import Path
from typing import Any

from seed_oss.errors import CheckpointError
from seed_oss.files.opening import open_model_file
from seed_oss.files.strict_json import MAX_CONFIG_VALUES, MAX_JSON_BYTES, parse_json


def read_json(root: str | Path, name: str, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Read a file of a model folder that holds one JSON object.

    Args:
        root: The model folder.
        name: A plain file name.
        max_bytes: Largest accepted size in bytes.

    Raises:
        CheckpointError: The content is not a JSON object, or exceeds a bound of `parse_json`.
        MissingFileError: There is no such file.
        UnsafeFileError: The name or the kind of file is not allowed.
    """
    source = str(Path(root) / name)
    with open_model_file(root, name) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise CheckpointError(f"{source} is larger than {max_bytes} bytes, the limit for this file")
    value = parse_json(data, source=source, max_bytes=max_bytes, max_values=MAX_CONFIG_VALUES)
    if not isinstance(value, dict):
        raise CheckpointError(f"{source} must hold a JSON object, got {type(value).__name__}")
    return value  # pyright: ignore[reportUnknownVariableType]
