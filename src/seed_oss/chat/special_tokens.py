"""Special tokens by name: bos, eos, pad and the like, and their ids."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from tokenizers import AddedToken

from seed_oss.errors import TokenizerError

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class SpecialTokens(ABC):
    """The names of a tokenizer's special tokens.

    Every name in `NAMED_TOKENS` is an attribute that reads as text or None and can be set to text or None; with `_id`
    appended it is the id. A checkpoint may bring names of its own (`image_token`), which work the same way.
    """

    _named: dict[str, str]
    _extra: list[str]

    def __init__(self) -> None:
        object.__setattr__(self, "_named", {})
        object.__setattr__(self, "_extra", [])

    @abstractmethod
    def _id_of(self, token: str) -> int | None:
        """The id of a token, the unknown token's where it is not in the vocabulary, None where there is none."""

    @abstractmethod
    def _token_of(self, token_id: int) -> str | None:
        """The token of an id."""

    # Without these the type of `tokenizer.eos_token_id` would be unknown; the values come from __getattr__.
    bos_token: str | None
    eos_token: str | None
    unk_token: str | None
    sep_token: str | None
    pad_token: str | None
    cls_token: str | None
    mask_token: str | None
    bos_token_id: int | None
    eos_token_id: int | None
    unk_token_id: int | None
    sep_token_id: int | None
    pad_token_id: int | None
    cls_token_id: int | None
    mask_token_id: int | None

    def __getattr__(self, name: str) -> Any:
        named: dict[str, str] = self.__dict__.get("_named", {})
        base = name.removesuffix("_id")
        if base not in NAMED_TOKENS and base not in named:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        token = named.get(base)
        if token is None or base == name:
            return token
        return self._id_of(token)

    def __setattr__(self, name: str, value: Any) -> None:
        base = name.removesuffix("_id")
        if base not in NAMED_TOKENS and base not in self.__dict__.get("_named", {}):
            object.__setattr__(self, name, value)
        elif value is None:
            self._named.pop(base, None)
        elif base == name:
            self._named[base] = token_text(value, base)
        else:
            self._named[base] = self._known_token(value, name)

    def _known_token(self, token_id: Any, name: str) -> str:
        token = self._token_of(token_id) if isinstance(token_id, int) and token_id >= 0 else None
        if token is None:
            raise TokenizerError(f"{name}={token_id!r} is not an id of the vocabulary")
        return token

    @property
    def extra_special_tokens(self) -> list[str]:
        """Special tokens without a name of their own."""
        return list(self._extra)

    @extra_special_tokens.setter
    def extra_special_tokens(self, tokens: Sequence[str | AddedToken] | None) -> None:
        object.__setattr__(self, "_extra", token_texts(tokens or [], "extra_special_tokens"))

    @property
    def additional_special_tokens(self) -> list[str]:
        """The older name of `extra_special_tokens`."""
        return self.extra_special_tokens

    @additional_special_tokens.setter
    def additional_special_tokens(self, tokens: Sequence[str | AddedToken] | None) -> None:
        self.extra_special_tokens = tokens  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """Named special tokens that are set, by name."""
        names = [*NAMED_TOKENS, *(name for name in self._named if name not in NAMED_TOKENS)]
        return {name: self._named[name] for name in names if name in self._named}

    @property
    def all_special_tokens(self) -> list[str]:
        """Every special token once: the named ones, then the extra ones."""
        return list(dict.fromkeys([*self.special_tokens_map.values(), *self._extra]))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of `all_special_tokens`, in the same order."""
        ids = [self._id_of(token) for token in self.all_special_tokens]
        return [token_id for token_id in ids if token_id is not None]

    @property
    def additional_special_tokens_ids(self) -> list[int]:
        """The ids of `additional_special_tokens`."""
        return [token_id for token in self._extra if (token_id := self._id_of(token)) is not None]

    extra_special_tokens_ids = additional_special_tokens_ids

    def _set_names(self, names: Mapping[str, Any]) -> None:
        """Set named tokens, names of the checkpoint's own included."""
        for name, value in names.items():
            if value is not None:
                self._named[name] = token_text(value, name)


def is_token_name(name: str) -> bool:
    """Whether a token may have this name: a word that ends in `_token` and that no other attribute has."""
    is_word = name.isidentifier() and name.endswith("_token") and not name.startswith("_")
    return is_word and name not in ("add_bos_token", "add_eos_token")


def token_text(value: Any, name: str) -> str:
    """The text of a token given as text, as an AddedToken, or as the mapping that one is stored as."""
    if isinstance(value, AddedToken):
        return value.content
    text: Any = cast("Mapping[str, Any]", value).get("content") if isinstance(value, Mapping) else value
    if not isinstance(text, str) or not text:
        raise TokenizerError(f"{name} must be the text of a token, got {type(text).__name__}")
    return text


def token_texts(values: Any, name: str) -> list[str]:
    """The texts of a list of tokens."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TokenizerError(f"{name} must be a list of tokens, got {type(values).__name__}")
    return [token_text(value, name) for value in cast("Iterable[Any]", values)]
