"""What stands beside the weights in a checkpoint folder, made from a GGUF file: configs, tokenizer, chat template."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from seed_oss.files import open_model_file
from seed_oss.quant.gguf_model import read_gguf_model, read_gguf_tokenizer

if TYPE_CHECKING:
    from collections.abc import Collection

    from seed_oss.quant.gguf_model import GGUFModel
    from seed_oss.quant.gguf_tokenizer import GGUFTokenizer

CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"
TOKENIZER, TOKENIZER_CONFIG, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"


def texts_of_file(path: Path, names: Collection[str]) -> dict[str, bytes]:
    """Some of a file's texts; files.resolve looks this function up.

    Args:
        path: The GGUF file; a link is followed.
        names: Those of a checkpoint folder that are wanted.

    Returns:
        Name to content, of those that there are.

    Raises:
        MissingFileError, MissingExtraError, UnsupportedModelError, CheckpointError, ConfigError, TokenizerError: See
            `read_gguf_model` and `read_gguf_tokenizer`.
    """
    real = Path(os.path.realpath(path))
    with open_model_file(real.parent, real.name) as file:
        model = read_gguf_model(file, source=os.fspath(path))
    found = config_texts(model)
    if not found.keys() >= set(names):
        found.update(tokenizer_texts(read_gguf_tokenizer(model)))
    return {name: text for name, text in found.items() if name in names}


def config_texts(model: GGUFModel) -> dict[str, bytes]:
    """config.json and generation_config.json."""
    texts = {CONFIG: model.config.to_json_string(), GENERATION_CONFIG: model.generation_config.to_json_string()}
    return {name: text.encode("utf-8") for name, text in texts.items()}


def tokenizer_texts(tokenizer: GGUFTokenizer) -> dict[str, bytes]:
    """tokenizer.json, tokenizer_config.json and, where the file has one, chat_template.jinja."""
    settings = json.dumps(tokenizer.tokenizer_config, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
    texts = {TOKENIZER: tokenizer.tokenizer_json, TOKENIZER_CONFIG: settings.encode("utf-8")}
    if tokenizer.chat_template is not None:
        texts[TEMPLATE] = tokenizer.chat_template.encode("utf-8")
    return texts
