"""Writing a tokenizer's files, each whole or not at all."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seed_oss.chat.tokenizer_files import (
    CONFIG_FILE,
    SPECIAL_TOKENS_FILE,
    TEMPLATE_FILE,
    TEMPLATE_FOLDER,
    TOKENIZER_FILE,
)
from seed_oss.errors import TokenizerError
from seed_oss.files import check_plain_name


def save_tokenizer_files(
    folder: Path,
    *,
    tokenizer_json: str,
    config: Mapping[str, Any],
    special_tokens: Mapping[str, Any],
    chat_template: str | Mapping[str, str] | None,
) -> tuple[str, ...]:
    """Write a tokenizer into a folder; files of other names stay, templates that are no longer set go.

    Args:
        folder: Made if needed.
        tokenizer_json: Content of tokenizer.json.
        config: Content of tokenizer_config.json but for the class, which is the one that reads tokenizer.json as it is.
        special_tokens: Content of special_tokens_map.json, which older readers want.
        chat_template: One template, or templates by name.

    Returns:
        The paths of the files written.

    Raises:
        TokenizerError: The folder is a file.
        UnsafeFileError: The name of a template is not a plain file name.
    """
    if folder.exists() and not folder.is_dir():
        raise TokenizerError(f"{folder} is a file; give a folder to save into")
    templates = {"default": chat_template} if isinstance(chat_template, str) else dict(chat_template or {})
    contents = {
        folder / TOKENIZER_FILE: tokenizer_json,
        folder / CONFIG_FILE: _json({**config, "tokenizer_class": "PreTrainedTokenizerFast"}),
        folder / SPECIAL_TOKENS_FILE: _json(special_tokens),
    }
    for name, template in templates.items():
        file_name = check_plain_name(f"{name}.jinja", where="name of a chat template")
        path = folder / TEMPLATE_FILE if name == "default" else folder / TEMPLATE_FOLDER / file_name
        contents[path] = template
    for path, content in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(path, content)
    for stale in [folder / TEMPLATE_FILE, *(folder / TEMPLATE_FOLDER).glob("*.jinja")]:
        if stale not in contents:
            stale.unlink(missing_ok=True)
    return tuple(map(str, contents))


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _write_whole(path: Path, content: str) -> None:
    """Write beside the file and exchange, so that a reader, or a power cut, finds the old content or the new."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(fd, "w", encoding="utf-8", newline="") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
