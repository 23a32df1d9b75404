"""Writing a tokenizer's files, all or none."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seed_oss.chat.tokenizer_files import (
    ADDED_TOKENS_FILE,
    CONFIG_FILE,
    SPECIAL_TOKENS_FILE,
    TEMPLATE_FILE,
    TEMPLATE_FOLDER,
    TOKENIZER_FILE,
)
from seed_oss.files import DirectoryCommit

_OWN_FILES = (TOKENIZER_FILE, CONFIG_FILE, SPECIAL_TOKENS_FILE, ADDED_TOKENS_FILE, TEMPLATE_FILE)


def save_tokenizer_files(
    folder: Path,
    *,
    tokenizer_json: str,
    config: Mapping[str, Any],
    special_tokens: Mapping[str, Any],
    chat_template: str | Mapping[str, str] | None,
) -> tuple[str, ...]:
    """Write a tokenizer into a folder, all files at once; files of other names stay, templates no longer set go.

    Args:
        folder: Made if needed.
        tokenizer_json: Content of tokenizer.json.
        config: Content of tokenizer_config.json but for the class, which is the one that reads tokenizer.json as it is.
        special_tokens: Content of special_tokens_map.json, which older readers want.
        chat_template: One template, which gets a file, or templates by name, which go into tokenizer_config.json.

    Returns:
        The paths of the files written.

    Raises:
        InputError: The folder is a file, or something else is saving into it.
    """
    settings: dict[str, Any] = {**config, "tokenizer_class": "PreTrainedTokenizerFast"}
    contents = {TOKENIZER_FILE: tokenizer_json, SPECIAL_TOKENS_FILE: _json(special_tokens)}
    if isinstance(chat_template, str):
        contents[TEMPLATE_FILE] = chat_template
    elif chat_template:
        settings["chat_template"] = [{"name": name, "template": text} for name, text in chat_template.items()]
    contents[CONFIG_FILE] = _json(settings)
    with DirectoryCommit(folder, replaces=lambda name: name in _OWN_FILES) as staging:
        for name, content in contents.items():
            (staging / name).write_text(content, encoding="utf-8", newline="")
    for stale in (folder / TEMPLATE_FOLDER).glob("*.jinja"):  # readers would take these before the setting
        stale.unlink()
    return tuple(str(folder / name) for name in contents)


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
