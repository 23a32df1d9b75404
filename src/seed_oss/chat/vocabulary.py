"""The vocabulary of a tokenizer: tokens and ids, looked up and added."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeVar, cast, overload

from tokenizers import AddedToken, Tokenizer

from seed_oss.chat.backend import Backend, backend_errors
from seed_oss.chat.encoding import to_lists
from seed_oss.chat.special_tokens import NAMED_TOKENS, SpecialTokens, token_texts
from seed_oss.errors import TokenizerError
from seed_oss.files.names import short

_MAX_ID = 2**32 - 1
_Made = TypeVar("_Made")


class Vocabulary(SpecialTokens):
    """Tokens and ids of a tokenizer.

    Args:
        tokenizer_object: The backend, without truncation and padding of its own.
    """

    def __init__(self, tokenizer_object: Tokenizer) -> None:
        super().__init__()
        self._backend = Backend(tokenizer_object)

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int | None: ...
    @overload
    def convert_tokens_to_ids(self, tokens: list[str]) -> list[int | None]: ...
    def convert_tokens_to_ids(self, tokens: str | list[str]) -> int | list[int | None] | None:
        """The id of a token, or the ids of a list of tokens.

        Returns:
            For a token that is not in the vocabulary, `unk_token_id`, which may be None.

        Raises:
            TokenizerError: One is not text.
        """
        if not isinstance(tokens, list | tuple):
            return self._id_of(tokens)
        return [self._id_of(token) for token in tokens]

    @overload
    def convert_ids_to_tokens(self, ids: int, skip_special_tokens: bool = False) -> str | None: ...
    @overload
    def convert_ids_to_tokens(self, ids: Sequence[int], skip_special_tokens: bool = False) -> list[str | None]: ...
    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> str | list[str | None] | None:
        """The token of an id, or the tokens of a list, tensor or array of ids; None for ids outside the vocabulary."""
        plain = to_lists(ids)
        if isinstance(plain, int):
            return self._token_of(plain)
        skipped = set(self.all_special_ids) if skip_special_tokens else set[int]()
        return [self._token_of(token_id) for token_id in checked_ids(plain) if token_id not in skipped]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join tokens into the text they stand for."""
        decoder = self._backend.tokenizer.decoder
        with backend_errors("the tokens cannot be joined"):
            return " ".join(tokens) if decoder is None else decoder.decode(tokens)

    def get_vocab(self) -> dict[str, int]:
        """Every token with its id, added tokens included."""
        return self._backend.tokenizer.get_vocab(with_added_tokens=True)

    def get_added_vocab(self) -> dict[str, int]:
        """Every added token with its id, in the order of the ids."""
        return {token.content: token_id for token_id, token in self.added_tokens_decoder.items()}

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Every added token by its id, in the order of the ids."""
        return dict(sorted(self._backend.tokenizer.get_added_tokens_decoder().items()))

    @property
    def vocab(self) -> dict[str, int]:
        """The same as `get_vocab()`."""
        return self.get_vocab()

    @property
    def vocab_size(self) -> int:
        """Number of tokens without the added ones."""
        return self._backend.tokenizer.get_vocab_size(with_added_tokens=False)

    def __len__(self) -> int:
        return self._backend.tokenizer.get_vocab_size(with_added_tokens=True)

    def __bool__(self) -> bool:
        return True

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The tokenizers package's object. After changing it directly, tokens included, load the tokenizer anew."""
        return self._backend.tokenizer

    @property
    def is_fast(self) -> bool:
        """Always True: there is no other kind here."""
        return True

    def get_special_tokens_mask(
        self, token_ids_0: Any, token_ids_1: Any = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """1 for each id that is a special token, 0 for the others, as data collators ask for.

        Args:
            token_ids_0: Ids of a row that holds its special tokens.
            token_ids_1: Only None.
            already_has_special_tokens: Only True; `return_special_tokens_mask=True` in a call serves the other case.

        Raises:
            TokenizerError: Another case is asked for.
        """
        if not already_has_special_tokens or token_ids_1 is not None:
            raise TokenizerError(
                "get_special_tokens_mask takes one row with already_has_special_tokens=True; "
                "for new text, call the tokenizer with return_special_tokens_mask=True"
            )
        special = set(self.all_special_ids)
        return [int(token_id in special) for token_id in checked_ids(to_lists(token_ids_0))]

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens a call adds to a text, or to a pair of texts."""
        return self._backend.tokenizer.num_special_tokens_to_add(pair)

    def remembered(self, make: Callable[[Self], _Made]) -> _Made:
        """What `make` makes of this tokenizer: made once, and anew after tokens were added or `eos_token` was set.

        Args:
            make: A function of the tokenizer, or a class.
        """
        return self._backend.remembered((make, self.eos_token), lambda: make(self))

    def add_tokens(
        self, new_tokens: str | AddedToken | Sequence[str | AddedToken], special_tokens: bool = False
    ) -> int:
        """Add tokens at the end of the vocabulary; resize the model's embeddings to `len(tokenizer)` afterwards.

        Args:
            new_tokens: One token or several; those that are there already get only their flags changed.
            special_tokens: Whether they are special: left out of text by `skip_special_tokens`.

        Returns:
            How many were new, or got other flags.
        """
        tokens = [new_tokens] if isinstance(new_tokens, str | AddedToken) else list(new_tokens)
        token_texts(tokens, "new_tokens")
        return self._backend.add_tokens(tokens, special=special_tokens)

    def add_special_tokens(
        self, special_tokens_dict: Mapping[str, Any], replace_extra_special_tokens: bool = True
    ) -> int:
        """Set named special tokens and add those that the vocabulary lacks.

        Args:
            special_tokens_dict: Tokens by name: `eos_token`, ..., and a list under `additional_special_tokens`.
            replace_extra_special_tokens: Whether the list replaces the one there is, or extends it.

        Returns:
            How many were new, or got other flags.

        Raises:
            TokenizerError: A name is not known, or a token is not text.
        """
        wanted = dict(special_tokens_dict)
        extra: Any = wanted.pop("additional_special_tokens", None) or wanted.pop("extra_special_tokens", None) or []
        unknown = [name for name in wanted if name not in NAMED_TOKENS]
        if unknown:
            raise TokenizerError(
                f"{unknown[0]!r} is not the name of a special token; allowed are {', '.join(NAMED_TOKENS)} "
                "and additional_special_tokens"
            )
        new_extra = token_texts(extra, "additional_special_tokens")
        self._set_names(wanted)
        if new_extra:
            kept = [] if replace_extra_special_tokens else self.extra_special_tokens
            self.extra_special_tokens = list(dict.fromkeys([*kept, *new_extra]))
        tokens = [value for value in [*wanted.values(), *extra] if value is not None]
        return self._backend.add_tokens(tokens, special=True)

    def _id_of(self, token: str) -> int | None:
        if not isinstance(token, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TokenizerError(f"a token is text, got {type(token).__name__}")
        with backend_errors(f"{short(token)} cannot be a token"):
            token_id = self._backend.tokenizer.token_to_id(token)
        if token_id is None and self.unk_token is not None:
            return self._backend.tokenizer.token_to_id(self.unk_token)
        return token_id

    def _token_of(self, token_id: int) -> str | None:
        return self._backend.tokenizer.id_to_token(checked_ids(token_id)[0])


def checked_ids(ids: Any) -> list[int]:
    """An id or a list of ids as a list.

    Raises:
        TokenizerError: One is not an integer from 0 to 2**32 - 1.
    """
    row = cast("list[Any]", ids if isinstance(ids, list) else [ids])
    for token_id in row:
        if not isinstance(token_id, int) or not 0 <= token_id <= _MAX_ID:
            raise TokenizerError(f"token ids are integers from 0 to {_MAX_ID}, got {token_id!r:.60}")
    return row
