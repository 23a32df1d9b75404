"""From segments of prompts to rows of token ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seed_oss.chat.backend import Truncation
from seed_oss.chat.control_vocabulary import ControlVocabulary
from seed_oss.chat.padding import check_side, resolve_lengths
from seed_oss.chat.prompts import Prompt, in_spans
from seed_oss.errors import InputError

_PADDING = ("padding", "max_length", "pad_to_multiple_of", "padding_side", "return_attention_mask", "return_tensors")
_OWN = ("truncation", "truncation_side", "stride", "return_token_type_ids", "return_special_tokens_mask", "verbose")
_ONLY_FALSE = ("add_special_tokens", "return_offsets_mapping", "return_overflowing_tokens", "return_length")


@dataclass(frozen=True, slots=True)
class RowArguments:
    """The arguments of a tokenizer call that mean something for rows already encoded.

    Args:
        padding: Those of `pad`, by name.
        cut: How rows are cut, if at all.
        return_tensors: "pt", "np" or None.
        token_type_ids: Whether they are asked for; None means if the model takes them.
        special_tokens_mask: Whether it is asked for.
        tell_if_too_long: Whether a row longer than the model takes is told of.
    """

    padding: dict[str, Any]
    cut: Truncation | None
    return_tensors: str | None
    token_type_ids: bool | None
    special_tokens_mask: bool
    tell_if_too_long: bool

    @classmethod
    def read(cls, arguments: Mapping[str, Any], model_max_length: int, truncation_side: str) -> "RowArguments":
        """Sort out the arguments of a call.

        Raises:
            InputError: One cannot be used for a prompt whose control tokens are kept apart.
        """
        for name, value in arguments.items():
            if name not in (*_PADDING, *_OWN) and (name not in _ONLY_FALSE or value):
                raise InputError(
                    f"{name} cannot be used where control tokens in messages are kept apart; leave it out, or pass "
                    "sanitize_control_tokens=False and no mask"
                )
        side = check_side(arguments.get("truncation_side") or truncation_side, "truncation_side")
        max_length = arguments.get("max_length")
        _, _, cut = resolve_lengths(
            padding=arguments.get("padding", False),
            truncation=arguments.get("truncation"),
            max_length=max_length,
            model_max_length=model_max_length,
            direction=side,
        )
        if cut is not None and cut.strategy == "only_second":
            raise InputError("truncation='only_second' needs pairs of texts; a prompt is one text, pass True")
        return cls(
            padding={name: arguments[name] for name in _PADDING if name in arguments},
            cut=cut,
            return_tensors=arguments.get("return_tensors"),
            token_type_ids=arguments.get("return_token_type_ids"),
            special_tokens_mask=bool(arguments.get("return_special_tokens_mask")),
            tell_if_too_long=bool(arguments.get("verbose", True)) and max_length is None,
        )


class PromptRows:
    """Rows of token ids and what goes with them.

    Args:
        vocabulary: Encodes the segments.
        prompts: The prompts, one for each row.
        arguments: How rows are cut.
        sanitize: Whether only the segments' own control tokens count; else all that the text spells.
        with_mask: Whether there are `assistant_masks`.
    """

    def __init__(
        self,
        vocabulary: ControlVocabulary,
        prompts: Sequence[Prompt],
        arguments: RowArguments,
        *,
        sanitize: bool,
        with_mask: bool,
    ) -> None:
        self._cut = arguments.cut
        self._special_tokens_mask = arguments.special_tokens_mask
        self._ids: list[list[int]] = []
        self._masks: list[list[int]] | None = [] if with_mask else None
        for prompt in prompts:
            segments = prompt.segments if sanitize and prompt.segments is not None else vocabulary.cut(prompt.text)
            ids, starts = vocabulary.encode(segments)
            self._ids.append(self._shortened(ids))
            if self._masks is not None:
                self._masks.append(self._shortened(in_spans(starts, prompt.assistant_spans or ())))

    def columns(self, *, as_batch: bool) -> dict[str, Any]:
        """The rows by name.

        Args:
            as_batch: Whether a single row stays in a list of rows.
        """
        columns = {"input_ids": self._ids}
        if self._masks is not None:
            columns["assistant_masks"] = self._masks
        if self._special_tokens_mask:
            columns["special_tokens_mask"] = [[0] * len(row) for row in self._ids]
        return {name: rows if as_batch else rows[0] for name, rows in columns.items()}

    def _shortened(self, row: list[int]) -> list[int]:
        if self._cut is None or len(row) <= self._cut.max_length:
            return row
        size = self._cut.max_length
        return row[:size] if self._cut.direction == "right" else row[len(row) - size :]
