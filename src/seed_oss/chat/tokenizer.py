"""SeedOssTokenizer: text to token ids and back, over the tokenizers package."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE

from seed_oss.chat.backend import backend_errors, with_special
from seed_oss.chat.batch import Wanted, encode_rows, gather_inputs
from seed_oss.chat.chat_calls import ChatCalls
from seed_oss.chat.detokenizer import Detokenizer
from seed_oss.chat.encoding import BatchEncoding, to_lists
from seed_oss.chat.padding import NO_LIMIT, Padding, check_length, check_side, pad_features, resolve_lengths
from seed_oss.chat.prompt_rows import RowArguments
from seed_oss.chat.settings import TokenizerSettings, check_keywords, read_settings
from seed_oss.chat.tokenizer_files import (
    TOKENIZER_PATTERNS,
    read_gguf_tokenizer,
    read_tokenizer_files,
    template_setting,
)
from seed_oss.chat.tokenizer_saving import save_tokenizer_files
from seed_oss.chat.vocabulary import checked_ids
from seed_oss.errors import InputError, TokenizerError
from seed_oss.files import gguf_file, resolve_model

_LOG = logging.getLogger(__name__)


class SeedOssTokenizer(ChatCalls):
    """Text to token ids and back; opens any checkpoint folder with a tokenizer.json.

    Named special tokens are attributes (`eos_token`, `eos_token_id`, ...) and can be set.

    Args:
        tokenizer_object: The backend; the tokenizer keeps it, without its own truncation and padding.
        chat_template: A Jinja template, or templates by name.
        name_or_path: Where it came from.
        **settings: What tokenizer_config.json holds: `eos_token`, `padding_side`, `model_max_length`, ...

    Raises:
        TokenizerError: A setting has a value that cannot be used.
    """

    def __init__(
        self,
        tokenizer_object: Tokenizer,
        *,
        chat_template: str | Mapping[str, str] | None = None,
        name_or_path: str = "",
        **settings: Any,
    ) -> None:
        tokenizer_object.no_truncation()
        tokenizer_object.no_padding()
        super().__init__(tokenizer_object)
        self._settings: TokenizerSettings = read_settings(settings)
        self.name_or_path = name_or_path
        self.chat_template: str | dict[str, str] | None = template_setting(chat_template)
        self.model_max_length: int = self._settings.model_max_length
        self.padding_side: str = self._settings.padding_side
        self.truncation_side: str = self._settings.truncation_side
        self.model_input_names: list[str] = list(self._settings.model_input_names)
        self.clean_up_tokenization_spaces: bool = self._settings.clean_up_tokenization_spaces
        self.split_special_tokens: bool = self._settings.split_special_tokens
        self._told_too_long = False
        self._set_names(self._settings.named_tokens)
        self.extra_special_tokens = self._settings.extra_special_tokens
        self._add_tokens_of_settings()
        tokenizer_object.encode_special_tokens = self.split_special_tokens
        self._add_bos_token = bool(self._settings.add_bos_token)
        self._add_eos_token = bool(self._settings.add_eos_token)
        asked = self._settings.add_bos_token is not None or self._settings.add_eos_token is not None
        if asked or tokenizer_object.post_processor is None:
            # Without any, the backend could not tell padding from text in `sequence_ids`.
            self._set_post_processor()

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        subfolder: str | None = None,
        **settings: Any,
    ) -> "SeedOssTokenizer":
        """Open the tokenizer of a checkpoint.

        Args:
            path_or_id: A folder, a hub id, the name of a model ("demo"), or a GGUF file.
            revision: Branch, tag or commit on the hub.
            cache_dir: Folder of the hub cache.
            token: Token for the hub.
            local_files_only: Use no network.
            subfolder: Folder inside the repository or folder.
            **settings: Go before what tokenizer_config.json holds (`padding_side="left"`, `pad_token="<pad>"`, ...).

        Raises:
            MissingFileError: There is no such folder, or it has no tokenizer.json.
            HubError: The hub could not be reached or refused.
            TokenizerError: A file or a setting cannot be used.
        """
        file = gguf_file(path_or_id)
        if file is not None:
            files = read_gguf_tokenizer(file)
        else:
            folder = resolve_model(
                path_or_id,
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                local_files_only=local_files_only,
                subfolder=subfolder,
                patterns=TOKENIZER_PATTERNS,
            )
            files = read_tokenizer_files(folder)
        chat_template = settings.pop("chat_template", None) or files.chat_template
        merged = {**files.config, **check_keywords(settings)}
        return cls(files.backend, chat_template=chat_template, name_or_path=os.fspath(path_or_id), **merged)

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> tuple[str, ...]:
        """Write the tokenizer's files into a folder, which is made if needed; other files in it stay.

        Args:
            save_directory: The folder.

        Returns:
            The paths of the files written.

        Raises:
            InputError: The folder is a file, or something else is saving into it.
        """
        config = {
            **self._settings.other,
            **self.special_tokens_map,
            "model_max_length": self.model_max_length,
            "padding_side": self.padding_side,
            "truncation_side": self.truncation_side,
            "model_input_names": self.model_input_names,
            "clean_up_tokenization_spaces": self.clean_up_tokenization_spaces,
        }
        special: dict[str, Any] = dict(self.special_tokens_map)
        if self.extra_special_tokens:
            config["additional_special_tokens"] = special["additional_special_tokens"] = self.extra_special_tokens
        return save_tokenizer_files(
            Path(save_directory),
            tokenizer_json=self._backend.tokenizer.to_str(pretty=True),
            config=config,
            special_tokens=special,
            chat_template=self.chat_template,
        )

    def __call__(
        self,
        text: str | Sequence[Any],
        text_pair: str | Sequence[Any] | None = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        truncation_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        split_special_tokens: bool | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Turn text into token ids.

        Args:
            text: A text; a list of texts (a batch) or of pairs of texts; with `is_split_into_words` a list of words
                or a list of these.
            text_pair: The second text of each pair.
            add_special_tokens: Whether the special tokens that the checkpoint puts around text are added.
            padding: True or "longest": to the longest row; "max_length": to `max_length`; False: not at all.
            truncation: True or "longest_first", "only_first", "only_second": to `max_length`; False: not at all; None:
                only if `max_length` is given without padding.
            max_length: Tokens, special tokens included; None means `model_max_length`.
            stride: Tokens that neighbouring pieces share under `return_overflowing_tokens`.
            is_split_into_words: Whether the texts are lists of words.
            pad_to_multiple_of: Lengths are rounded up to a multiple of this.
            padding_side: "left" or "right"; None means the tokenizer's.
            truncation_side: The end that is cut; None means the tokenizer's.
            return_tensors: "pt" for torch tensors, "np" for numpy arrays (both int64), None for lists.
            return_token_type_ids: Rows of 0 for the text and 1 for the pair; None means if the model takes them.
            return_attention_mask: Rows of 1 for tokens and 0 for padding; None means if the model takes them.
            return_overflowing_tokens: Return what truncation cuts off as rows of its own.
            return_special_tokens_mask: Rows of 1 for added special tokens and padding.
            return_offsets_mapping: Rows of (start, end) characters of each token.
            return_length: The number of tokens of each row.
            split_special_tokens: Whether special tokens written in the text are ordinary text.
            verbose: Whether a row longer than `model_max_length` is told of, once.

        Returns:
            `input_ids` and what else was asked for, `[batch, length]`; `[length]` for one text without tensors.

        Raises:
            InputError: An argument is not allowed, or rows of different lengths cannot become a tensor.
            TokenizerError: Padding without a padding token, or the text cannot be encoded.
        """
        kind, pad_length, cut = resolve_lengths(
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            model_max_length=self.model_max_length,
            stride=stride,
            direction=check_side(truncation_side or self.truncation_side, "truncation_side"),
        )
        if kind and cut and pad_to_multiple_of and cut.max_length % pad_to_multiple_of:
            raise InputError(
                f"max_length={cut.max_length} must be a multiple of pad_to_multiple_of={pad_to_multiple_of} "
                "when rows are both cut and padded"
            )
        wanted = Wanted(
            attention_mask=self._takes("attention_mask") if return_attention_mask is None else return_attention_mask,
            token_type_ids=self._takes("token_type_ids") if return_token_type_ids is None else return_token_type_ids,
            special_tokens_mask=return_special_tokens_mask,
            offsets_mapping=return_offsets_mapping,
            length=return_length,
            overflowing_tokens=return_overflowing_tokens,
        )
        encoded = encode_rows(
            self._backend,
            gather_inputs(text, text_pair, is_split_into_words=is_split_into_words),
            wanted=wanted,
            add_special_tokens=add_special_tokens,
            padding=self._padding(kind, pad_length, pad_to_multiple_of, padding_side) if kind else None,
            truncation=cut,
            split_special_tokens=self.split_special_tokens if split_special_tokens is None else split_special_tokens,
            return_tensors=return_tensors,
        )
        if verbose and max_length is None:
            self._tell_if_too_long(max((len(encoding) for encoding in encoded.encodings or []), default=0))
        return encoded

    def encode(self, text: str | Sequence[Any], text_pair: str | Sequence[Any] | None = None, **kwargs: Any) -> Any:
        """Turn text into token ids only: `tokenizer(...)["input_ids"]`, with the same arguments."""
        return self(text, text_pair, **kwargs)["input_ids"]

    def tokenize(
        self, text: str, pair: str | None = None, *, add_special_tokens: bool = False, **kwargs: Any
    ) -> list[str]:
        """The tokens of a text as the vocabulary writes them."""
        return self(text, pair, add_special_tokens=add_special_tokens, **kwargs).tokens()

    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        *,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """Pad rows that were tokenized before; with `return_tensors="pt"` it serves as a collate function.

        Args:
            encoded_inputs: Names to rows, or a list of names to one row each. `input_ids` must be among them;
                `attention_mask`, `token_type_ids` and `special_tokens_mask` are padded too, other names kept.
            padding: As in a call.
            max_length: Length for "max_length".
            pad_to_multiple_of: Lengths are rounded up to a multiple of this.
            padding_side: "left" or "right"; None means the tokenizer's.
            return_attention_mask: Whether a mask is made where there is none; None means if the model takes it.
            return_tensors: "pt", "np" or None.

        Raises:
            InputError: An argument is not allowed.
            TokenizerError: `input_ids` is missing, rows do not go together, or there is no padding token.
        """
        kind, length, _ = resolve_lengths(
            padding=padding, truncation=False, max_length=max_length, model_max_length=self.model_max_length
        )
        return pad_features(
            encoded_inputs,
            self._padding(kind, length, pad_to_multiple_of, padding_side) if kind else None,
            main_input=self.model_input_names[0],
            with_mask=self._takes("attention_mask") if return_attention_mask is None else return_attention_mask,
            return_tensors=return_tensors,
        )

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> Any:
        """Turn token ids into text.

        Args:
            token_ids: An id, a list or 1-D tensor or array of ids, or a batch of these.
            skip_special_tokens: Leave out tokens that the vocabulary flags as special.
            clean_up_tokenization_spaces: Remove spaces before punctuation; never done for byte-pair vocabularies,
                which do not put any there. None means the checkpoint's setting.

        Returns:
            The text, or a list of texts for a batch.

        Raises:
            TokenizerError: An id is not an integer from 0 to 2**32 - 1. Ids outside the vocabulary give no text.
        """
        ids = to_lists(token_ids)
        if isinstance(ids, list) and ids and isinstance(ids[0], list):
            rows = cast("list[Any]", ids)
            return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in rows]
        row = checked_ids(ids)
        with backend_errors("the ids cannot be decoded"):
            text = self._backend.tokenizer.decode(row, skip_special_tokens=skip_special_tokens)
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = self.clean_up_tokenization_spaces
        if clean_up_tokenization_spaces and not isinstance(self._backend.tokenizer.model, BPE):
            return clean_up(text)
        return text

    def batch_decode(
        self,
        sequences: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[str]:
        """Turn rows of token ids into texts; arguments as in `decode`."""
        texts = self.decode(sequences, skip_special_tokens, clean_up_tokenization_spaces)
        return [texts] if isinstance(texts, str) else texts

    @property
    def add_bos_token(self) -> bool:
        """Whether calls put the bos token before the text; setting it, or `add_eos_token`, replaces the
        post-processor of tokenizer.json."""
        return self._add_bos_token

    @add_bos_token.setter
    def add_bos_token(self, value: bool) -> None:
        self._add_bos_token = bool(value)
        self._set_post_processor()

    @property
    def add_eos_token(self) -> bool:
        """Whether calls put the eos token after the text; see `add_bos_token`."""
        return self._add_eos_token

    @add_eos_token.setter
    def add_eos_token(self, value: bool) -> None:
        self._add_eos_token = bool(value)
        self._set_post_processor()

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(name_or_path={self.name_or_path!r}, vocab_size={self.vocab_size}, "
            f"added_tokens={len(self.added_tokens_decoder)}, special_tokens={self.special_tokens_map})"
        )

    def detokenizer(self, *, skip_special_tokens: bool = False) -> Detokenizer:
        """Start turning ids into text piece by piece.

        Args:
            skip_special_tokens: Leave out tokens that the vocabulary flags as special.
        """
        return Detokenizer(self._backend, skip_special_tokens=skip_special_tokens)

    def _call(self, text: str | Sequence[Any], arguments: Mapping[str, Any]) -> BatchEncoding:
        return self(text, **arguments)

    def _takes(self, name: str) -> bool:
        return name in self.model_input_names

    def _padding(self, kind: str, length: int | None, multiple_of: int | None, padding_side: str | None) -> Padding:
        if multiple_of is not None:
            check_length(multiple_of, "pad_to_multiple_of", 1)
        pad_token, pad_id = self.pad_token, self.pad_token_id
        if pad_token is None or pad_id is None:
            raise TokenizerError(
                f"padding={kind!r} needs a padding token and this tokenizer has none; set one, for instance "
                "tokenizer.pad_token = tokenizer.eos_token"
            )
        side = check_side(padding_side or self.padding_side, "padding_side")
        return Padding(length, side, pad_id, pad_token, self._settings.pad_token_type_id, multiple_of)

    def _pad_rows(self, rows: Mapping[str, Any], arguments: RowArguments) -> BatchEncoding:
        ids: list[Any] = rows["input_ids"]
        batch: list[list[int]] = ids if ids and isinstance(ids[0], list) else [ids]
        if arguments.tell_if_too_long:
            self._tell_if_too_long(max(map(len, batch)))
        wanted = arguments.token_type_ids
        if self._takes("token_type_ids") if wanted is None else wanted:
            zeros = [[0] * len(row) for row in batch]
            rows = {**rows, "token_type_ids": zeros if batch is ids else zeros[0]}
        settings: dict[str, Any] = {"padding": False, **arguments.padding}
        return self.pad(rows, **settings)

    def _tell_if_too_long(self, longest: int) -> None:
        if self._told_too_long or self.model_max_length >= NO_LIMIT:
            return
        if longest > self.model_max_length:
            self._told_too_long = True
            _LOG.warning(
                "a text has %d tokens, the model takes %d; pass truncation=True, or a shorter text",
                longest,
                self.model_max_length,
            )

    def _set_post_processor(self) -> None:
        for name in ("bos", "eos"):
            if getattr(self, f"_add_{name}_token") and getattr(self, f"{name}_token_id") is None:
                raise TokenizerError(f"add_{name}_token=True needs a {name}_token, and this tokenizer has none")
        self._backend.set_bos_eos(
            self.bos_token if self._add_bos_token else None, self.eos_token if self._add_eos_token else None
        )

    def _add_tokens_of_settings(self) -> None:
        """Add the tokens that the settings declare or name; a named token is special whatever its own flag says."""
        own = {token.content: token for token in self.added_tokens_decoder.values()}
        declared = self._settings.declared_tokens
        tokens = dict(own if declared is None else declared)
        for name in self.all_special_tokens:
            if name not in own and name not in tokens:
                tokens[name] = self._settings.described_tokens.get(name, AddedToken(name, special=True))
        named = set(self.special_tokens_map.values())
        self._backend.add_tokens(
            [with_special(token) if token.content in named else token for token in tokens.values()]
        )


def clean_up(text: str) -> str:
    """Remove the spaces that WordPiece vocabularies leave before punctuation and English contractions."""
    for mark in (".", "?", "!", ","):
        text = text.replace(f" {mark}", mark)
    text = text.replace(" ' ", "'")
    for ending in ("n't", "'m", "'s", "'ve", "'re"):
        text = text.replace(f" {ending}", ending)
    return text
