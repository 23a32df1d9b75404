"""The files of a tokenizer: tokenizer.json and what stands beside it."""

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer

from seed_oss.chat.backend import load_backend
from seed_oss.chat.special_tokens import NAMED_TOKENS, token_text
from seed_oss.errors import CheckpointError, MissingFileError, TokenizerError, UnsafeFileError
from seed_oss.files import (
    MAX_TOKENIZER_JSON_BYTES,
    gguf_texts,
    model_file_exists,
    open_model_file,
    parse_json,
    read_json,
)

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"
TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_FOLDER = "additional_chat_templates"
TOKENIZER_PATTERNS = (
    TOKENIZER_FILE,
    CONFIG_FILE,
    SPECIAL_TOKENS_FILE,
    ADDED_TOKENS_FILE,
    TEMPLATE_FILE,
    f"{TEMPLATE_FOLDER}/*.jinja",
)
_SIGNS_OF_A_MODEL = ("config.json", CONFIG_FILE, "tokenizer.model", "vocab.json", "vocab.txt")
MAX_TEMPLATE_BYTES = 2**20
MAX_TEMPLATES = 64


@dataclass(frozen=True)
class TokenizerFiles:
    """What a folder says about its tokenizer.

    Args:
        backend: The tokenizer itself.
        config: Settings: tokenizer_config.json, the older special_tokens_map.json merged in, and the padding that
            tokenizer.json asks for as defaults.
        chat_template: One template, or templates by name, or None.
    """

    backend: Tokenizer
    config: dict[str, Any]
    chat_template: str | dict[str, str] | None


def read_tokenizer_files(folder: Path) -> TokenizerFiles:
    """Read and check the tokenizer files of a folder.

    Raises:
        MissingFileError: The folder has no tokenizer.json.
        TokenizerError: A file holds what a tokenizer cannot be made of.
        UnsafeFileError: A name leads out of the folder, or is not a regular file.
    """
    if not model_file_exists(folder, TOKENIZER_FILE):
        raise MissingFileError(_missing_message(folder))
    backend, parsed = load_backend(
        _read(folder, TOKENIZER_FILE, MAX_TOKENIZER_JSON_BYTES), source=str(folder / TOKENIZER_FILE)
    )
    config = _read_optional_json(folder, CONFIG_FILE)
    if "added_tokens_decoder" not in config:
        config = _with_special_tokens_map(config, _read_optional_json(folder, SPECIAL_TOKENS_FILE))
        older = _read_optional_json(folder, ADDED_TOKENS_FILE)
        if older:
            config["added_tokens_decoder"] = _with_added_tokens(older, parsed.get("added_tokens") or [], config)
    return _finished(backend, parsed, config, _read_templates(folder))


def read_gguf_tokenizer(file: Path) -> TokenizerFiles:
    """What a GGUF file says about its tokenizer.

    Raises:
        MissingExtraError: The `gguf` package is not installed.
        UnsupportedModelError, CheckpointError, ConfigError, TokenizerError: The file cannot be read, or holds what a
            tokenizer cannot be made of.
    """
    texts = gguf_texts(file, [TOKENIZER_FILE, CONFIG_FILE, TEMPLATE_FILE])
    backend, parsed = load_backend(texts[TOKENIZER_FILE], source=f"{TOKENIZER_FILE} of {file}")
    template = texts.get(TEMPLATE_FILE)
    if template is not None and len(template) > MAX_TEMPLATE_BYTES:
        raise TokenizerError(f"the chat template of {file} is larger than {MAX_TEMPLATE_BYTES} bytes")
    config = parse_json(texts[CONFIG_FILE], source=f"{CONFIG_FILE} of {file}")
    return _finished(backend, parsed, config, None if template is None else template.decode("utf-8"))


def _finished(
    backend: Tokenizer, parsed: dict[str, Any], config: dict[str, Any], chat_template: str | dict[str, str] | None
) -> TokenizerFiles:
    if chat_template is None:
        chat_template = template_setting(config.get("chat_template"))
    for name in ("chat_template", "add_bos_token", "add_eos_token"):  # tokenizer.json says it itself
        config.pop(name, None)
    return TokenizerFiles(backend, {**_backend_defaults(parsed), **config}, chat_template)


def template_setting(value: Any) -> str | dict[str, str] | None:
    """A chat template as it is set: one text, templates by name, or the list of both that older files hold.

    Raises:
        TokenizerError: It is something else.
    """
    if value is None or isinstance(value, str):
        return value
    pairs: list[tuple[Any, Any]] = []
    kind = type(value).__name__
    if isinstance(value, Mapping):
        pairs = list(cast("Mapping[Any, Any]", value).items())
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            entry = cast("dict[str, Any]", item) if isinstance(item, dict) else {}
            pairs.append((entry.get("name"), entry.get("template")))
    if not pairs or not all(isinstance(name, str) and isinstance(text, str) for name, text in pairs):
        raise TokenizerError(f"chat_template must be a text, or texts by name, got {kind}; fix {CONFIG_FILE}")
    return dict(pairs)


def _backend_defaults(parsed: dict[str, Any]) -> dict[str, Any]:
    """The padding and truncation sides that tokenizer.json itself asks for; the configuration file goes before them."""
    defaults: dict[str, Any] = {}
    padding, truncation = parsed.get("padding"), parsed.get("truncation")
    if isinstance(padding, dict):
        values = cast("dict[str, Any]", padding)
        defaults["pad_token"] = values.get("pad_token")
        defaults["padding_side"] = str(values.get("direction", "right")).lower()
        defaults["pad_token_type_id"] = values.get("pad_type_id", 0)
    if isinstance(truncation, dict):
        defaults["truncation_side"] = str(cast("dict[str, Any]", truncation).get("direction", "right")).lower()
    return {name: value for name, value in defaults.items() if value is not None}


def _with_special_tokens_map(config: dict[str, Any], special: dict[str, Any]) -> dict[str, Any]:
    merged = dict(config)
    for name, value in special.items():
        if name in ("additional_special_tokens", "extra_special_tokens") or name in NAMED_TOKENS:
            merged[name] = value
        elif name.endswith("_token") and value:
            merged[name] = token_text(value, name)
    return merged


def _with_added_tokens(older: dict[str, Any], own: list[dict[str, Any]], config: dict[str, Any]) -> dict[str, Any]:
    """The tokens of the older added_tokens.json by id, with those of tokenizer.json in front of them."""
    special = {value for name, value in config.items() if name in NAMED_TOKENS and isinstance(value, str)}
    tokens: dict[str, Any] = {
        str(token_id): {"content": content, "special": content in special} for content, token_id in older.items()
    }
    return {**tokens, **{str(token.get("id")): token for token in own}}


def _read_templates(folder: Path) -> str | dict[str, str] | None:
    templates: dict[str, str] = {}
    if model_file_exists(folder, TEMPLATE_FILE):
        templates["default"] = _read_text(folder, TEMPLATE_FILE)
    more = folder / TEMPLATE_FOLDER
    for name in _template_names(more):
        templates[name.removesuffix(".jinja")] = _read_text(more, name)
    if list(templates) == ["default"]:
        return templates["default"]
    return templates or None


def _template_names(folder: Path) -> list[str]:
    """The templates of a folder inside the model folder; in the hub cache its files may be links, itself never."""
    try:
        mode = folder.lstat().st_mode
        if stat.S_ISLNK(mode):
            raise UnsafeFileError(
                f"{folder} is a symbolic link where a folder is required; put the folder itself there"
            )
        names = sorted(path.name for path in folder.iterdir() if path.suffix == ".jinja") if stat.S_ISDIR(mode) else []
    except FileNotFoundError:
        return []
    except OSError as error:
        raise TokenizerError(f"{folder} cannot be read: {error.strerror}") from None
    if len(names) > MAX_TEMPLATES:
        raise TokenizerError(f"{folder} holds {len(names)} templates; the limit is {MAX_TEMPLATES}")
    return names


def _read_optional_json(folder: Path, name: str) -> dict[str, Any]:
    if not model_file_exists(folder, name):
        return {}
    try:
        return read_json(folder, name)
    except CheckpointError as error:
        raise TokenizerError(str(error)) from error


def _read_text(folder: Path, name: str) -> str:
    try:
        return _read(folder, name, MAX_TEMPLATE_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        raise TokenizerError(f"{folder / name} is not valid UTF-8") from None


def _read(folder: Path, name: str, max_bytes: int) -> bytes:
    with open_model_file(folder, name) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise TokenizerError(f"{folder / name} is larger than {max_bytes} bytes, the limit for this file")
    return data


def _missing_message(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder} is not a folder; give the folder of a checkpoint or tokenizer"
    if not any(model_file_exists(folder, name) for name in _SIGNS_OF_A_MODEL):
        return (
            f"{folder} holds no checkpoint and no tokenizer: neither config.json nor {TOKENIZER_FILE}; check the path"
        )
    return (
        f"{folder} has no {TOKENIZER_FILE}; a tokenizer in another form (tokenizer.model, vocab.json) can be saved as "
        f"one with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...)"
    )
