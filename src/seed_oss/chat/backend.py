"""The tokenizers package behind our own errors: loading, twins that share the vocabulary, its failures converted."""

import json
import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, TypeVar

from tokenizers import AddedToken, Encoding, Tokenizer

from seed_oss.chat.tokenizer_checks import check_tokenizer_json
from seed_oss.errors import CheckpointError, SeedOssError, TokenizerError
from seed_oss.files import MAX_TOKENIZER_JSON_BYTES, parse_json
from seed_oss.files.names import escaped

_MAX_MESSAGE_LEN = 300
_Made = TypeVar("_Made")


class backend_errors:  # noqa: N801 - reads as a statement: `with backend_errors("..."):`
    """Turn whatever the tokenizers package raises into a TokenizerError.

    It raises bare Exception for bad data and PanicException, which is no Exception, where its own code fails.

    Args:
        doing: What was tried, as the start of the message.
    """

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, SeedOssError | KeyboardInterrupt | SystemExit | GeneratorExit):
            return
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise TokenizerError(f"{self._doing}: {escaped(str(error)[:_MAX_MESSAGE_LEN])}") from error


def load_backend(data: bytes, *, source: str) -> tuple[Tokenizer, dict[str, Any]]:
    """Make a tokenizer from the bytes of a tokenizer.json.

    Args:
        data: The content of the file.
        source: Its name, for messages.

    Returns:
        The tokenizer, with the truncation and padding that the file asks for switched off, and the parsed file.

    Raises:
        TokenizerError: The content is not a tokenizer, or asks for more than the limits of tokenizer_checks.
    """
    try:
        parsed = parse_json(data, source=source, max_bytes=MAX_TOKENIZER_JSON_BYTES)
    except CheckpointError as error:
        raise TokenizerError(str(error)) from error
    parsed = check_tokenizer_json(parsed, source)
    with backend_errors(f"{source} is not a tokenizer that the tokenizers package can read"):
        tokenizer = Tokenizer.from_buffer(data)
        tokenizer.no_truncation()
        tokenizer.no_padding()
    return tokenizer, parsed


def twin(tokenizer: Tokenizer, *, special: Iterable[str] = (), added_tokens: bool = True) -> Tokenizer:
    """Make a second tokenizer that shares the vocabulary, so that its settings can change on their own.

    Args:
        tokenizer: The original.
        special: Texts of tokens that the original skips as special although their flag no longer says so.
        added_tokens: Whether the twin knows the original's added tokens and puts special tokens around text. Without,
            no text can become one of them.

    Returns:
        The twin. Its ids are the original's.
    """
    copy: Any = Tokenizer(tokenizer.model)  # Any: the package's own types leave the argument types out
    names = ("normalizer", "pre_tokenizer", "decoder", *(["post_processor"] if added_tokens else []))
    for name in names:
        if getattr(tokenizer, name) is not None:
            setattr(copy, name, getattr(tokenizer, name))
    if not added_tokens:
        return copy
    tokens = tokenizer.get_added_tokens_decoder()
    ordered = [tokens[token_id] for token_id in sorted(tokens)]
    once_special = set(special)
    copy.add_tokens([with_special(token) if token.content in once_special else token for token in ordered])
    copy.add_tokens(ordered)
    copy.encode_special_tokens = tokenizer.encode_special_tokens
    if copy.get_added_tokens_decoder().keys() != tokens.keys():
        raise TokenizerError(
            "the ids of the added tokens have gaps that cannot be rebuilt; save and load the tokenizer"
        )
    return copy


def with_special(token: AddedToken) -> AddedToken:
    """The same token, flagged special."""
    return AddedToken(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=True,
    )


@dataclass(frozen=True)
class Truncation:
    """How text is cut: what the tokenizers package calls the same.

    Args:
        max_length: Tokens to keep, special tokens included.
        stride: Tokens that neighbouring pieces share, where the rest is returned too.
        strategy: "longest_first", "only_first" or "only_second": which of text and pair gives.
        direction: "right" or "left": the end that is cut.
    """

    max_length: int
    stride: int = 0
    strategy: str = "longest_first"
    direction: str = "right"


class Backend:
    """A tokenizer whose calls do not change its settings.

    The package keeps truncation as a setting of the tokenizer, so that two threads would cut each other's texts. Calls
    that truncate, or that split special tokens, therefore go through a twin and a lock; all others run freely.

    Args:
        tokenizer: The tokenizer; truncation and padding must be off.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.special_tokens = {t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special}
        self._twin: Tokenizer | None = None
        self._remembered: dict[Hashable, Any] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer, "special_tokens": self.special_tokens}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["tokenizer"])
        self.special_tokens = set(state["special_tokens"])

    def add_tokens(self, tokens: Sequence[str | AddedToken], *, special: bool = False) -> int:
        """Add tokens, or change the flags of those that are there.

        Returns:
            How many were new, or got other flags.

        Raises:
            TokenizerError: The package refuses one.
        """
        with self._lock, backend_errors("the tokens cannot be added"):
            untyped: Any = self.tokenizer
            num_added: int = (untyped.add_special_tokens if special else untyped.add_tokens)(list(tokens))
            self.special_tokens |= {
                token if isinstance(token, str) else token.content
                for token in tokens
                if special or (isinstance(token, AddedToken) and token.special)
            }
            self._twin = None
            self._remembered = {}
        return num_added

    def remembered(self, key: Hashable, make: Callable[[], _Made]) -> _Made:
        """What `make` makes of the tokenizer, made once for its tokens as they are.

        Args:
            key: What it is.
            make: Makes it.
        """
        memory = self._remembered  # another one as soon as tokens are added
        return memory[key] if key in memory else memory.setdefault(key, make())

    def set_bos_eos(self, bos: str | None, eos: str | None) -> None:
        """Replace the post-processor: put these tokens before and after every text.

        Raises:
            TokenizerError: A token is not in the vocabulary.
        """
        with self._lock, backend_errors("special tokens cannot be put around texts"):
            template = _around(self.tokenizer, bos, eos)
            # The class's own constructor takes "<token>:0" and cannot read tokens with a colon, as <seed:bos> is.
            processor: Any = component_from_json("post_processor", template)
            self.tokenizer.post_processor = processor
            self._twin = None

    def encode_batch(
        self,
        inputs: list[Any],
        *,
        add_special_tokens: bool,
        is_pretokenized: bool = False,
        truncation: Truncation | None = None,
        split_special_tokens: bool = False,
    ) -> list[Encoding]:
        """Encode texts, pairs of texts, or lists of words.

        Raises:
            TokenizerError: A text cannot be encoded, or cannot be truncated as asked.
        """
        if truncation is None and split_special_tokens == self.tokenizer.encode_special_tokens:
            with backend_errors("the text cannot be encoded"):
                return _encode(self.tokenizer, inputs, add_special_tokens, is_pretokenized)
        with self._lock, backend_errors("the text cannot be encoded with these settings"):
            if self._twin is None:
                self._twin = twin(self.tokenizer, special=self.special_tokens)
            other: Any = self._twin
            other.encode_special_tokens = split_special_tokens
            if truncation is None:
                other.no_truncation()
            else:
                other.enable_truncation(**asdict(truncation))
            return _encode(other, inputs, add_special_tokens, is_pretokenized)


def component_from_json(name: str, state: dict[str, Any]) -> Any:
    """Make a part of a tokenizer ("decoder", "post_processor", ...) from what tokenizer.json says of it."""
    empty: dict[str, Any] = {"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}, name: state}
    return getattr(Tokenizer.from_str(json.dumps(empty)), name)


def _around(tokenizer: Tokenizer, bos: str | None, eos: str | None) -> dict[str, Any]:
    """The post-processor that puts bos before and eos after each text, as tokenizer.json writes it."""

    def pieces(text: str, type_id: int) -> list[dict[str, Any]]:
        start = [{"SpecialToken": {"id": bos, "type_id": type_id}}] if bos else []
        end = [{"SpecialToken": {"id": eos, "type_id": type_id}}] if eos else []
        return [*start, {"Sequence": {"id": text, "type_id": type_id}}, *end]

    specials = {
        token: {"id": token, "ids": [tokenizer.token_to_id(token)], "tokens": [token]} for token in (bos, eos) if token
    }
    return {
        "type": "TemplateProcessing",
        "single": pieces("A", 0),
        "pair": [*pieces("A", 0), *pieces("B", 1)],
        "special_tokens": specials,
    }


def _encode(tokenizer: Tokenizer, inputs: list[Any], add_special_tokens: bool, is_pretokenized: bool) -> list[Encoding]:
    try:
        return tokenizer.encode_batch(inputs, add_special_tokens=add_special_tokens, is_pretokenized=is_pretokenized)
    except TypeError:
        _refuse_surrogates(inputs)
        raise


def _refuse_surrogates(inputs: Sequence[Any]) -> None:
    """Name the half of a surrogate pair that no tokenizer takes, if there is one in these texts, pairs or words."""
    for index, given in enumerate(inputs):
        parts: Sequence[Any] = [given] if isinstance(given, str) else given
        for part in parts:
            try:
                part.encode() if isinstance(part, str) else _refuse_surrogates(part)
            except UnicodeEncodeError as error:
                raise TokenizerError(
                    f"text {index} cannot be encoded: character {error.start} is the lone surrogate "
                    f"{ascii(part[error.start])[1:-1]}; remove or replace it"
                ) from None
