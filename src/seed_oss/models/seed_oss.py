"""The Seed-OSS decoder and its language-model head (reference: transformers' `models/seed_oss`)."""

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from seed_oss.cache import (
    Cache,
    DenseContext,
    DynamicCache,
    MaskShape,
    PagedContext,
    as_cache,
    attention_mask,
    packed_sequence_ids,
    query_offset,
)
from seed_oss.config import GenerationConfig, SeedOssConfig
from seed_oss.generation import generate
from seed_oss.models.base import SeedOssPreTrainedModel
from seed_oss.models.chat import chat
from seed_oss.models.inputs import (
    check_cache_position,
    check_mask_length,
    check_model_inputs,
    check_packed_inputs,
    check_unused,
    embed,
)
from seed_oss.models.language_loss import causal_lm_loss, select_positions
from seed_oss.models.recording import Recorder
from seed_oss.nn import SeedOssDecoderLayer, SeedOssLayers, SeedOssRMSNorm, SeedOssRotaryEmbedding
from seed_oss.nn.fused_step import FusedStep
from seed_oss.nn.linear import Linear
from seed_oss.nn.outputs import BaseModelOutputWithPast, CausalLMOutputWithPast


class SeedOssModel(SeedOssPreTrainedModel):
    """Token ids to hidden states: embedding, decoder layers, final norm."""

    def __init__(self, config: SeedOssConfig) -> None:
        super().__init__(config)
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = SeedOssLayers(SeedOssDecoderLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = SeedOssRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = SeedOssRotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.checkpointing_kwargs: dict[str, Any] = {}
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        *,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        return_dict: bool | None = None,
        is_causal: bool | None = None,
        cache_position: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the decoder.

        Args:
            input_ids: integer `[batch, length]`; either these or `inputs_embeds`.
            attention_mask: `[batch, cached + length]`, nonzero for tokens to attend to; or a finished 4D mask, boolean
                (True attends) or a float dtype (added to the scores).
            position_ids: integer `[batch or 1, length]`; counted on from the cache if None. Without mask and cache,
                a step other than 1 starts another, separate sequence in the same row.
            past_key_values: a cache to read and extend, or the 4.x tuple form.
            inputs_embeds: `[batch, length, hidden_size]`.
            use_cache: make and return a cache; from the config if None.
            output_attentions: return attention weights (eager attention only); from the config if None.
            output_hidden_states: return hidden states: all, or those with these indices; from the config if None.
            return_dict: False returns a tuple; from the config if None.
            is_causal: False lets tokens attend to later ones; from the config if None.
            cache_position: integer `[length]`, accepted from 4.x callers and not needed: must continue the cache.
            **kwargs: arguments the reference ignores as well; anything else is refused.

        Returns:
            BaseModelOutputWithPast, or a tuple of its fields that are present.

        Raises:
            InputError: inputs of a wrong shape, type or combination.
            CacheFullError: a StaticCache has no room.
        """
        check_unused(kwargs)
        check_model_inputs(input_ids, inputs_embeds, position_ids, attention_mask, self.config.hidden_size)
        hidden_states = inputs_embeds if inputs_embeds is not None else embed(self.embed_tokens, input_ids)  # type: ignore[arg-type]
        cache = self._cache(past_key_values, use_cache)
        check_cache_position(cache_position, hidden_states.shape[1], query_offset(cache))
        recorder = Recorder(self.config, output_hidden_states, output_attentions)
        context = self._context(hidden_states, attention_mask, position_ids, cache, is_causal, recorder)
        if position_ids is None:
            cos, sin = self.rotary_emb.following(hidden_states, query_offset(cache))
        else:
            cos, sin = self.rotary_emb(hidden_states, position_ids)

        is_watched = recorder.selected is not None or (self.gradient_checkpointing and self.training)
        step = partial(self._run, recorder) if is_watched else None
        hidden_states = self.layers(hidden_states, cos, sin, context, self.config.num_hidden_layers, step)
        if cache is not None:
            cache.advance(hidden_states.shape[1])
        last_hidden_state = self.norm(hidden_states)

        output = BaseModelOutputWithPast(
            last_hidden_state=last_hidden_state,
            past_key_values=cache,
            hidden_states=recorder.hidden_states(hidden_states, last_hidden_state),
            attentions=recorder.attentions(context),
        )
        return output if self._returns_dict(return_dict) else output.to_tuple()

    @torch.no_grad()
    def run_packed(
        self, input_ids: Tensor, position_ids: Tensor, context: PagedContext, total_lens: Tensor | None = None
    ) -> Tensor:
        """Run the decoder on new tokens of several sequences in a row; a token's bits do not depend on the others.

        Args:
            input_ids: integer `[num_tokens]`, those of `context.rows` in order.
            position_ids: integer `[num_tokens]`.
            context: where each sequence keeps its keys and values.
            total_lens: integer `[num_tokens]`, how long the sequence of each token will be in the end. Needed where
                RoPE depends on that (`dynamic`, `longrope`), and then always the same for a sequence.

        Returns:
            The last hidden states `[num_tokens, hidden_size]`.

        Raises:
            InputError: inputs of a wrong shape or type, or not as many as the context has rows.
            StateError: the model is in training mode.
        """
        check_packed_inputs(self, input_ids, position_ids, context, total_lens)
        hidden_states = embed(self.embed_tokens, input_ids[None])
        lens = None if total_lens is None else total_lens[None]
        cos, sin = self.rotary_emb.of_sequences(hidden_states, position_ids[None], lens)
        hidden_states = self.layers.run_packed(hidden_states, cos, sin, context)
        return self.norm(hidden_states)[0]

    def _run(
        self,
        recorder: Recorder,
        layer: nn.Module,
        hidden_states: Tensor,
        cos: Tensor,
        sin: Tensor,
        context: DenseContext,
    ) -> Tensor:
        recorder.add(hidden_states)
        if self.gradient_checkpointing and self.training:
            return checkpoint(layer, hidden_states, cos, sin, context, **self.checkpointing_kwargs)  # type: ignore[return-value]
        return layer(hidden_states, cos, sin, context)

    def _cache(self, past_key_values: Any, use_cache: bool | None) -> Cache | None:
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if self.gradient_checkpointing and self.training:
            if past_key_values is not None:
                warnings.warn("gradient checkpointing: past_key_values are not used while training", stacklevel=3)
            return None
        if past_key_values is not None:
            return as_cache(past_key_values, self.config.num_hidden_layers)
        return DynamicCache(config=self.config) if use_cache else None

    def _context(
        self,
        hidden_states: Tensor,
        padding_mask: Tensor | None,
        position_ids: Tensor | None,
        cache: Cache | None,
        is_causal: bool | None,
        recorder: Recorder,
    ) -> DenseContext:
        """The attention context of this forward: one mask for all layers, the cache, the implementation."""
        batch, length = hidden_states.shape[:2]
        offset = query_offset(cache)
        kv_len = cache.layer(0).kv_len(length) if cache is not None else length
        if isinstance(offset, int):
            check_mask_length(padding_mask, offset + length, kv_len)
        sequence_ids = None
        if position_ids is not None and padding_mask is None and cache is None:
            sequence_ids = self._sequence_ids(position_ids.expand(batch, -1))
        eager = self.config.attn_implementation == "eager"
        mask = attention_mask(
            padding_mask,
            MaskShape(batch, length, kv_len, offset),
            sequence_ids=sequence_ids,
            is_causal=getattr(self.config, "is_causal", True) if is_causal is None else is_causal,
            eager=eager,
            dtype=hidden_states.dtype,
            device=hidden_states.device,
        )
        return DenseContext(mask, cache, eager, record_weights=recorder.wants_attentions)

    @staticmethod
    def _sequence_ids(position_ids: Tensor) -> Tensor | None:
        """Packed sequences, or None where there is one per row. A compiled graph cannot look, so it always masks."""
        sequence_ids = packed_sequence_ids(position_ids)
        if torch.compiler.is_compiling() or sequence_ids.is_meta:
            return sequence_ids
        return sequence_ids if bool(sequence_ids[:, -1].any()) else None


class SeedOssForCausalLM(SeedOssPreTrainedModel):
    """The decoder with a language-model head."""

    _tied_weights_keys: ClassVar[Mapping[str, str]] = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: SeedOssConfig) -> None:
        super().__init__(config)
        self.model = SeedOssModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.generation_config = GenerationConfig.from_model_config(config)
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
        logits_to_keep: int | Tensor = 0,
        *,
        shift_labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_logits: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Logits of the next token at each position, and the loss if labels are given.

        Args:
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache: see SeedOssModel.
            labels: integer `[batch, length]`, -100 to ignore; position i is compared with label i + 1.
            logits_to_keep: last n positions (0 keeps all); or a 1D tensor of positions, a 2D integer tensor of
                positions per row, a 2D boolean mask (logits are then `[num_true, vocab_size]`).
            shift_labels: labels that are shifted already, instead of `labels`.
            num_items_in_batch: divide the summed loss by this instead of by the number of labels that count.
            return_logits: True computes the logits now, False leaves them out; None computes them at the first
                access where labels are given, else now.
            return_dict: False returns a tuple; from the config if None.
            **kwargs: `output_attentions`, `output_hidden_states`, `is_causal`, `cache_position`: see SeedOssModel.

        Returns:
            CausalLMOutputWithPast, or a tuple of its fields that are present.

        Raises:
            InputError: inputs or labels of a wrong shape, type, range or combination.
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
        hidden_states = select_positions(outputs.last_hidden_state, logits_to_keep)
        returns_dict = self._returns_dict(return_dict)
        loss, logits = causal_lm_loss(
            self.lm_head,
            hidden_states,
            labels,
            shift_labels=shift_labels,
            num_items=num_items_in_batch,
            vocab_size=self.config.vocab_size,
            return_logits=True if return_logits is None and not returns_dict else return_logits,
        )
        output = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return output if returns_dict else output.to_tuple()

    def can_generate(self) -> bool:
        """This class generates."""
        return True

    def fused_step(self) -> FusedStep | None:
        """The native call of a decoding step, for as long as no module is replaced; None where there is none."""
        return FusedStep.of(self, self.model, self.lm_head) if type(self) is SeedOssForCausalLM else None

    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Continue prompts; see `seed_oss.generation.generate` for the arguments."""
        return generate(self, inputs, generation_config, logits_processor, stopping_criteria, **kwargs)

    def chat(
        self,
        tokenizer: Any,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: Any = None,
        response_format: Any = None,
        parallel_tool_calls: bool = True,
        thinking_budget: Any = None,
        stream: bool = False,
        **settings: Any,
    ) -> Any:
        """Answer a conversation.

        The model thinks freely before it answers. With neither `tool_choice` nor `response_format` it answers freely
        too, tools or not; both need the extra `grammar` (`tool_choice="none"` does not).

        Args:
            tokenizer: with the checkpoint's chat template.
            messages: mappings with `role` and `content`, as OpenAI's API takes them.
            tools: tools as JSON schemas. Calls are returned, never run.
            tool_choice: "auto": the model may call, and what it calls fits the schema of its tool; "none": the tools
                stay in the prompt, and nothing may be called; "required": calls and nothing else; a function, as
                `{"type": "function", "function": {"name": ...}}`: calls of it. None leaves everything to the model.
            response_format: the form of the content: `{"type": "json_schema", "json_schema": {"schema": ...}}`,
                `{"type": "json_object"}`, or a `seed_oss.chat.OutputFormat`. With tools and no `tool_choice`, or
                "auto", an answer is of this form or calls.
            parallel_tool_calls: whether more than one call may come; False holds calls to their schemas as "auto" does.
            thinking_budget: tokens of thinking, 0 for none, None for no limit; a ThinkingBudget for the mode too.
            stream: return the events of the answer while it is generated.
            **settings: `max_new_tokens` (4,096 unless the model's files say otherwise), `loop_guard`, `row_controls`,
                `template_variables`, `past_key_values` and all that `generate` takes.

        Returns:
            An AssistantMessage; with `stream` a ChatStream, an iterator of events that has the message, the number of
            tokens and the reason of the end when it is through. An answer that `max_new_tokens` cuts off says so
            (`truncated`, and "length" as its `finish_reason`).

        Raises:
            InputError: an argument of a wrong type or value, or a form that cannot be enforced.
            MissingExtraError: an answer shall be held to a form, and the extra `grammar` is not installed.
            TemplateError: the messages cannot be rendered.
            TokenizerError: a budget for a model that does not think, or calls held to a form for one without a format
                of calls.
        """
        return chat(
            self,
            tokenizer,
            messages,
            tools=tools,
            tool_choice=tool_choice,
            response_format=response_format,
            parallel_tool_calls=parallel_tool_calls,
            thinking_budget=thinking_budget,
            stream=stream,
            **settings,
        )

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        next_sequence_length: int | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """What `forward` needs for the next step, for callers that drive generation themselves (adapters do).

        Args:
            input_ids: `[batch, length]`, everything so far.
            past_key_values: what is cached of it; only the rest is passed on.
            attention_mask: `[batch, length]`.
            inputs_embeds: `[batch, length, hidden_size]`, used instead of the ids while nothing is cached.
            next_sequence_length: how many ids at the end to pass on, where the cache holds more than ids (virtual
                tokens of an adapter).
        """
        cached = 0 if past_key_values is None else past_key_values.get_seq_length()
        inputs: dict[str, Any] = {"attention_mask": attention_mask, "past_key_values": past_key_values}
        inputs.update(
            {name: kwargs[name] for name in ("use_cache", "logits_to_keep", "position_ids") if name in kwargs}
        )
        start = cached if next_sequence_length is None else -next_sequence_length
        new = inputs_embeds if inputs_embeds is not None and cached == 0 else input_ids[:, start:]
        inputs["inputs_embeds" if new is inputs_embeds else "input_ids"] = new
        if attention_mask is not None and attention_mask.dim() == 2:
            positions = (attention_mask.long().cumsum(-1) - 1).masked_fill(attention_mask == 0, 0)
            inputs["position_ids"] = positions[:, -new.shape[1] :]
        return inputs
