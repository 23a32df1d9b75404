"""Heads that classify: a sequence, each token, or where an answer starts and ends."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from seed_oss.config import SeedOssConfig
from seed_oss.errors import InputError
from seed_oss.models.base import SeedOssPreTrainedModel
from seed_oss.models.seed_oss import SeedOssModel
from seed_oss.nn.linear import Linear
from seed_oss.nn.loss import question_answering_loss, sequence_classification_loss, token_classification_loss
from seed_oss.nn.outputs import (
    QuestionAnsweringModelOutput,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)


class SeedOssForSequenceClassification(SeedOssPreTrainedModel):
    """One label (or number) per sequence, read off its last token that is not padding."""

    def __init__(self, config: SeedOssConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = SeedOssModel(config)
        self.score = Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        *,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Logits `[batch, num_labels]`, and the loss if labels are given.

        Args:
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache: see SeedOssModel.
            labels: `[batch]` classes or numbers, or `[batch, num_labels]` floats; `config.problem_type` says which
                loss, and is set at the first use if it is None.
            return_dict: False returns a tuple; from the config if None.
            **kwargs: see SeedOssModel.

        Returns:
            SequenceClassifierOutputWithPast, or a tuple of its fields that are present.

        Raises:
            InputError: as in SeedOssModel; several rows without `config.pad_token_id`; labels that do not fit.
        """
        outputs = self.model(
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            use_cache,
            return_dict=True,
            **kwargs,
        )
        pooled = self._last_tokens(outputs.last_hidden_state, input_ids)
        logits = self.score(pooled)
        output = SequenceClassifierOutputWithPast(
            loss=None if labels is None else sequence_classification_loss(logits, labels, self.config),
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return output if self._returns_dict(return_dict) else output.to_tuple()

    def _last_tokens(self, hidden_states: Tensor, input_ids: Tensor | None) -> Tensor:
        """Hidden state `[batch, hidden_size]` of each row's rightmost token that is not the pad token."""
        batch, length = hidden_states.shape[:2]
        pad_token_id = self.config.pad_token_id
        if pad_token_id is None and batch != 1:
            raise InputError(
                f"a batch of {batch} rows cannot be classified without a padding token; set config.pad_token_id, or "
                "pass one row at a time"
            )
        if pad_token_id is None or input_ids is None:
            if pad_token_id is not None:
                warnings.warn("inputs_embeds: padding cannot be seen, the last position is classified", stacklevel=3)
            return hidden_states[:, -1]
        positions = torch.arange(length, device=input_ids.device)
        last = (positions * (input_ids != pad_token_id)).argmax(-1).to(hidden_states.device)
        return hidden_states[torch.arange(batch, device=hidden_states.device), last]


class SeedOssForTokenClassification(SeedOssPreTrainedModel):
    """One label per token."""

    def __init__(self, config: SeedOssConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = SeedOssModel(config)
        self.dropout = nn.Dropout(_classifier_dropout(config))
        has_bias = getattr(config, "token_classification_bias", True)
        self.score = Linear(config.hidden_size, config.num_labels, bias=has_bias)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        *,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Logits `[batch, length, num_labels]`, and the loss if labels are given.

        Args:
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache: see SeedOssModel.
            labels: integer `[batch, length]`, -100 to ignore.
            return_dict: False returns a tuple; from the config if None.
            **kwargs: see SeedOssModel.

        Returns:
            TokenClassifierOutput, or a tuple of its fields that are present.

        Raises:
            InputError: as in SeedOssModel; labels that do not fit.
        """
        outputs = self.model(
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            use_cache,
            return_dict=True,
            **kwargs,
        )
        logits = self.score(self.dropout(outputs.last_hidden_state))
        output = TokenClassifierOutput(
            loss=None if labels is None else token_classification_loss(logits, labels),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return output if self._returns_dict(return_dict) else output.to_tuple()


class SeedOssForQuestionAnswering(SeedOssPreTrainedModel):
    """Where in the text an answer starts and ends. The decoder is called `transformer` here, as in the reference."""

    base_model_prefix = "transformer"

    def __init__(self, config: SeedOssConfig) -> None:
        super().__init__(config)
        self.transformer = SeedOssModel(config)
        self.qa_outputs = Linear(config.hidden_size, 2)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        *,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Start and end logits `[batch, length]`, and the loss if both positions are given.

        Args:
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds: see SeedOssModel.
            start_positions: integer `[batch]`; clamped to 0..length, where length itself is ignored.
            end_positions: integer `[batch]`, likewise.
            num_items_in_batch: divide the summed losses by this instead of by the number of positions that count.
            return_dict: False returns a tuple; from the config if None.
            **kwargs: `use_cache` and the rest of SeedOssModel.

        Returns:
            QuestionAnsweringModelOutput, or a tuple of its fields that are present.

        Raises:
            InputError: as in SeedOssModel; positions that do not fit.
        """
        outputs = self.transformer(
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, return_dict=True, **kwargs
        )
        start_logits, end_logits = self.qa_outputs(outputs.last_hidden_state).unbind(-1)
        start_logits, end_logits = start_logits.contiguous(), end_logits.contiguous()
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = question_answering_loss(start_logits, end_logits, start_positions, end_positions, num_items_in_batch)
        output = QuestionAnsweringModelOutput(
            loss=loss,
            start_logits=start_logits,
            end_logits=end_logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return output if self._returns_dict(return_dict) else output.to_tuple()


def _classifier_dropout(config: SeedOssConfig) -> float:
    for name in ("classifier_dropout", "hidden_dropout"):
        value = getattr(config, name, None)
        if value is not None:
            return value
    return 0.1
