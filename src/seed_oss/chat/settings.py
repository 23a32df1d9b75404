"""What tokenizer_config.json may say, checked; and the keyword arguments that go before it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from tokenizers import AddedToken

from seed_oss.chat.padding import NO_LIMIT, check_side
from seed_oss.chat.special_tokens import NAMED_TOKENS, is_token_name, token_text, token_texts
from seed_oss.chat.tokenizer_checks import check_added_tokens
from seed_oss.errors import InputError, TokenizerError
from seed_oss.files.names import short

_FLAGS = ("clean_up_tokenization_spaces", "split_special_tokens", "add_bos_token", "add_eos_token")
_KNOWN = (
    *NAMED_TOKENS,
    *_FLAGS,
    "additional_special_tokens",
    "extra_special_tokens",
    "model_max_length",
    "padding_side",
    "truncation_side",
    "model_input_names",
    "pad_token_type_id",
    "chat_template",
)
# Arguments of the reference that choose between implementations; there is one here, and it runs no code from a folder.
_WITHOUT_EFFECT = ("use_fast", "legacy", "trust_remote_code", "verbose", "clean_up_tokenization_spaces_for_bpe")
_MAX_NAMED = 256
_BUILT_HERE = ("tokenizer_class", "backend", "auto_map", "is_local", "local_files_only", "added_tokens_decoder")


@dataclass(frozen=True)
class TokenizerSettings:
    """The settings of a tokenizer.

    Args:
        named_tokens: Special tokens by name, names of the checkpoint's own included.
        extra_special_tokens: Special tokens without a name.
        declared_tokens: The added tokens as the configuration lists them, in the order of their ids; None if it does
            not, and tokenizer.json's own list holds.
        described_tokens: Special tokens that the configuration gives with flags of their own.
        add_bos_token: Whether calls put bos before the text; None leaves it to tokenizer.json.
        add_eos_token: Whether calls put eos after the text; None leaves it to tokenizer.json.
        other: Settings that have no effect here and are written back.
    """

    named_tokens: dict[str, str] = field(default_factory=dict[str, str])
    extra_special_tokens: list[str] = field(default_factory=list[str])
    declared_tokens: dict[str, AddedToken] | None = None
    described_tokens: dict[str, AddedToken] = field(default_factory=dict[str, AddedToken])
    model_max_length: int = NO_LIMIT
    padding_side: str = "right"
    truncation_side: str = "right"
    model_input_names: tuple[str, ...] = ("input_ids", "attention_mask")
    pad_token_type_id: int = 0
    clean_up_tokenization_spaces: bool = False
    split_special_tokens: bool = False
    add_bos_token: bool | None = None
    add_eos_token: bool | None = None
    other: dict[str, Any] = field(default_factory=dict[str, Any])


def read_settings(config: Mapping[str, Any]) -> TokenizerSettings:
    """Check what a tokenizer_config.json says.

    Args:
        config: The settings by name; tokens as text, as AddedToken or as the mapping that one is stored as.

    Raises:
        TokenizerError: A value cannot be used.
    """
    named = _named_tokens(config)
    extra: Any = config.get("additional_special_tokens") or config.get("extra_special_tokens") or []
    if isinstance(extra, Mapping):
        _check_names(cast("Mapping[Any, Any]", extra))
        named.update(
            {str(name): token_text(value, str(name)) for name, value in cast("Mapping[Any, Any]", extra).items()}
        )
        extra = []
    if len(named) > _MAX_NAMED:
        raise TokenizerError(f"the configuration names {len(named)} special tokens; the limit is {_MAX_NAMED}")
    extra_tokens = token_texts(extra, "additional_special_tokens")
    declared = _declared_tokens(config.get("added_tokens_decoder"))
    check_added_tokens({*named.values(), *extra_tokens, *(declared or ())}, "the tokenizer's configuration")
    return TokenizerSettings(
        named_tokens=named,
        extra_special_tokens=extra_tokens,
        declared_tokens=declared,
        described_tokens=_described_tokens([*config.values(), *_as_list(extra)]),
        model_max_length=_model_max_length(config.get("model_max_length", config.get("max_len"))),
        padding_side=_side(config, "padding_side"),
        truncation_side=_side(config, "truncation_side"),
        model_input_names=_input_names(config.get("model_input_names")),
        pad_token_type_id=_type_id(config.get("pad_token_type_id", 0)),
        clean_up_tokenization_spaces=bool(config.get("clean_up_tokenization_spaces") or False),
        split_special_tokens=bool(config.get("split_special_tokens") or False),
        add_bos_token=config.get("add_bos_token"),
        add_eos_token=config.get("add_eos_token"),
        other={name: value for name, value in config.items() if _is_other(name, value)},
    )


def check_keywords(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Check the keyword arguments of `from_pretrained`.

    Returns:
        Those that have an effect.

    Raises:
        InputError: One is not known.
    """
    for name, value in settings.items():
        if name not in _KNOWN and name not in _WITHOUT_EFFECT and not _is_token_name(name, value):
            raise InputError(
                f"{name!r} is not an argument of a tokenizer; allowed are {', '.join(sorted(_KNOWN))} "
                "and tokens by name"
            )
    return {name: value for name, value in settings.items() if name not in _WITHOUT_EFFECT}


def _check_names(names: Iterable[Any]) -> None:
    """Tokens are attributes of the tokenizer by name: such a name must not be that of something else."""
    for name in names:
        if not isinstance(name, str) or not is_token_name(name):
            raise TokenizerError(
                f"extra_special_tokens names a token {short(name)}; a name is a word that ends in _token, such as "
                "image_token"
            )


def _named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    names = [name for name, value in config.items() if name in NAMED_TOKENS or _is_token_name(name, value)]
    return {name: token_text(config[name], name) for name in names if config[name] is not None}


def _is_token_name(name: str, value: Any) -> bool:
    return is_token_name(name) and (isinstance(value, str | AddedToken) or _as_added_token(value) is not None)


def _is_other(name: str, value: Any) -> bool:
    return (
        name not in _KNOWN and name not in _BUILT_HERE and not name.startswith("_") and not _is_token_name(name, value)
    )


def _described_tokens(values: Iterable[Any]) -> dict[str, AddedToken]:
    tokens = [token for value in values if (token := _as_added_token(value)) is not None]
    return {token.content: token for token in tokens}


def _declared_tokens(value: Any) -> dict[str, AddedToken] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise TokenizerError(f"added_tokens_decoder must map ids to tokens, got {type(value).__name__}")
    by_id = cast("Mapping[Any, Any]", value)
    ids = {str(key): int(key) for key in by_id if str(key).isascii() and str(key).isdecimal() and len(str(key)) < 12}
    if len(ids) != len(by_id):
        raise TokenizerError("added_tokens_decoder has a key that is not a token id")
    declared: dict[str, AddedToken] = {}
    for key in sorted(by_id, key=lambda key: ids[str(key)]):
        token = _as_added_token(by_id[key])
        if token is None:
            raise TokenizerError(f"added_tokens_decoder[{key}] is not a token")
        declared[token.content] = token
    return declared


def _as_added_token(value: Any) -> AddedToken | None:
    """A token with its flags, from an AddedToken or from the mapping that one is stored as; None for anything else."""
    if isinstance(value, AddedToken):
        return value
    if not isinstance(value, Mapping):
        return None
    entry = cast("Mapping[str, Any]", value)
    content = entry.get("content")
    if not isinstance(content, str) or not content:
        return None
    special = bool(entry.get("special", True))
    return AddedToken(
        content,
        single_word=bool(entry.get("single_word", False)),
        lstrip=bool(entry.get("lstrip", False)),
        rstrip=bool(entry.get("rstrip", False)),
        normalized=bool(entry.get("normalized", not special)),
        special=special,
    )


def _as_list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def _model_max_length(value: Any) -> int:
    if value is None:
        return NO_LIMIT
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 10**40:
        raise TokenizerError(f"model_max_length must be a positive number of tokens, got {value!r:.60}")
    return int(value)


def _type_id(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
        raise TokenizerError(f"pad_token_type_id must be an integer from 0 to 2**32 - 1, got {value!r:.60}")
    return value


def _side(config: Mapping[str, Any], name: str) -> str:
    try:
        return check_side(config.get(name) or "right", name)
    except InputError as error:
        raise TokenizerError(str(error)) from None


def _input_names(value: Any) -> tuple[str, ...]:
    if value is None:
        return ("input_ids", "attention_mask")
    names = tuple(cast("list[Any]", value)) if isinstance(value, list | tuple) else ()
    if not names or not all(isinstance(name, str) for name in names):
        raise TokenizerError("model_input_names must be a list of names such as input_ids, attention_mask")
    return names
