"""What all model classes share besides loading and saving: initialisation, embeddings, switches."""

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from seed_oss.config import GenerationConfig, SeedOssConfig
from seed_oss.errors import InputError
from seed_oss.models.pretrained import PretrainedMixin
from seed_oss.models.quantized_state import (
    DequantizedState,
    is_quantized,
    num_quantized,
    packed_state,
    refuse_loading,
    refuse_resizing,
    tie_quantized,
)
from seed_oss.models.resize import resized_embedding, resized_head
from seed_oss.nn import SeedOssRMSNorm, SeedOssRotaryEmbedding
from seed_oss.quant.quantize import has_tied_head
from seed_oss.weights import dtype_name, weight_dtype

ATTENTION_IMPLEMENTATIONS = ("sdpa", "eager")
CHECKPOINTING_ARGUMENTS = (
    "use_reentrant",
    "preserve_rng_state",
    "context_fn",
    "determinism_check",
    "debug",
    "early_stop",
)
"""What `torch.utils.checkpoint.checkpoint` takes beside the function and its arguments."""


def resolve_attention(name: str) -> str:
    """The implementation behind a reference name; flash attention is what SDPA picks where it can.

    Raises:
        InputError: unknown name.
    """
    if name in ("flash_attention_2", "flash_attention_3"):
        warnings.warn(f"{name}: using sdpa, which runs flash kernels where the device has them", stacklevel=3)
        return "sdpa"
    if name not in ATTENTION_IMPLEMENTATIONS:
        raise InputError(f"attn_implementation is {name!r}; allowed: {', '.join(ATTENTION_IMPLEMENTATIONS)}")
    return name


class SeedOssPreTrainedModel(PretrainedMixin, nn.Module):
    """Base of every model class.

    Args:
        config: model configuration, kept as `self.config`.

    Raises:
        ConfigError: fields of the config, perhaps changed since it was made, do not fit each other.
    """

    config_class = SeedOssConfig
    base_model_prefix: ClassVar[str] = "model"
    main_input_name: ClassVar[str] = "input_ids"
    supports_gradient_checkpointing: ClassVar[bool] = True
    _no_split_modules: ClassVar[list[str]] = ["SeedOssDecoderLayer"]
    _tied_weights_keys: ClassVar[Mapping[str, str]] = {}

    def __init__(self, config: SeedOssConfig) -> None:
        if not isinstance(config, SeedOssConfig):
            raise InputError(f"config is a {type(config).__name__}; it must be a SeedOssConfig")
        config.validate()
        super().__init__()
        self.config = config
        self.generation_config: GenerationConfig | None = None
        self.warnings_issued: dict[str, bool] = {}  # trainers keep theirs here

    @classmethod
    def _from_config(
        cls,
        config: SeedOssConfig,
        *,
        dtype: Any = None,
        torch_dtype: Any = None,
        attn_implementation: str | None = None,
        trust_remote_code: bool | None = None,
    ) -> Self:
        """A model of random weights; see `AutoModel.from_config`, which is the public way to it."""
        if not isinstance(config, SeedOssConfig):
            raise InputError(f"config is a {type(config).__name__}; it must be a SeedOssConfig")
        config = config.copy()
        if attn_implementation is not None:
            config.attn_implementation = resolve_attention(attn_implementation)
        wanted = next((value for value in (dtype, torch_dtype, config.dtype) if value is not None), None)
        if wanted is None:
            return cls(config)
        config.dtype = dtype_name(weight_dtype(wanted))
        return cls(config).to(weight_dtype(wanted))

    # Initialisation

    def post_init(self) -> None:
        """Initialise all weights and tie those that are shared. The last line of each constructor."""
        if self.config.attn_implementation is None:
            self.config.attn_implementation = "eager" if self.config.output_attentions else "sdpa"
        if not any(parameter.is_meta for parameter in self.parameters()):
            self.init_weights()
        self.tie_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw all weights anew: normal with `initializer_range`, biases and the padding row 0, norms 1."""
        self.apply(self._init_weights)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            module.weight.normal_(mean=0.0, std=std)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(mean=0.0, std=std)
            if module.padding_idx is not None:
                module.weight[module.padding_idx].zero_()
        elif isinstance(module, SeedOssRMSNorm):
            module.weight.fill_(1.0)

    def reset_buffers(self, device: torch.device | str | None = None) -> None:
        """Compute the non-persistent buffers anew, after the model has left the meta device."""
        for module in self.modules():
            if isinstance(module, SeedOssRotaryEmbedding):
                module.reset_buffers(device)

    def tie_weights(self) -> None:
        """Share the parameters that `config.tie_word_embeddings` says are shared."""
        if not self.config.tie_word_embeddings or tie_quantized(self, self._tied_weights_keys):
            return
        for tied, source in self._tied_weights_keys.items():
            owner, _, name = tied.rpartition(".")
            setattr(self.get_submodule(owner), name, self.get_parameter(source))

    # Embeddings

    @property
    def base_model(self) -> nn.Module:
        """The model under the head; the model itself if it has none."""
        return getattr(self, self.base_model_prefix, self)

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        return self.base_model.get_submodule("embed_tokens")

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding."""
        self.base_model.embed_tokens = value

    def get_output_embeddings(self) -> nn.Module | None:
        """The language-model head, or None for a class without one."""
        return getattr(self, "lm_head", None)

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the language-model head.

        Raises:
            InputError: the class has none.
        """
        if self.get_output_embeddings() is None:
            raise InputError(f"{type(self).__name__} has no output embeddings to replace")
        self.lm_head = new_embeddings

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Module:
        """Change the vocabulary's size: rows are kept, cut off, or added.

        Args:
            new_num_tokens: the new size; None keeps it (and pads it, if asked).
            pad_to_multiple_of: round the size up to a multiple of this.
            mean_resizing: draw new rows around the mean of the old ones; False draws them as at initialisation.

        Returns:
            The input embedding.

        Raises:
            InputError: a size below 1.
            StateError: the model is quantized.
        """
        old = self.get_input_embeddings()
        refuse_resizing(old)
        if not isinstance(old, nn.Embedding):
            raise InputError(f"the input embedding is a {type(old).__name__}; only nn.Embedding can be resized")
        size = _padded_size(new_num_tokens, old.num_embeddings, pad_to_multiple_of)
        if size == old.num_embeddings:
            return old
        self.set_input_embeddings(resized_embedding(old, size, mean_resizing, self._init_weights))
        head = self.get_output_embeddings()
        if isinstance(head, nn.Linear):
            self.set_output_embeddings(resized_head(head, size, mean_resizing, self._init_weights))
        self.config.vocab_size = size
        for module in (self, self.base_model):
            if hasattr(module, "vocab_size"):
                vars(module).update(vocab_size=size)
        self.tie_weights()
        return self.get_input_embeddings()

    # State

    def state_dict(self, *args: Any, packed: bool = False, **kwargs: Any) -> Any:
        """The model's tensors by name.

        Of a quantized model they are the numbers that the weights stand for, under the names that the plain model has;
        each is made when it is looked up, so that going through all of them needs memory for one.

        Args:
            *args, **kwargs: as in `nn.Module.state_dict`.
            packed: what is stored instead: `<module>.packed` as uint8, see docs/quantization.md.

        Returns:
            A dict; of a quantized model, without `packed`, a mapping.
        """
        if packed:
            return packed_state(self)
        if not args and not kwargs and is_quantized(self):
            return DequantizedState(self)
        return super().state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As `nn.Module.load_state_dict`.

        Raises:
            StateError: the model is quantized.
        """
        refuse_loading(self)
        return super().load_state_dict(state_dict, strict, assign)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """A head that shares the embedding's packed bytes does so on another device, too."""
        is_tied = has_tied_head(self) and is_quantized(self)
        super()._apply(fn, recurse)
        if is_tied:
            tie_quantized(self, self._tied_weights_keys)
        return self

    # Switches

    def set_attn_implementation(self, attn_implementation: str) -> None:
        """Choose "sdpa" or "eager"; "flash_attention_2" means SDPA.

        Raises:
            InputError: unknown name.
        """
        self.config.attn_implementation = resolve_attention(attn_implementation)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Keep only each layer's input while training, and run the layer again in the backward.

        Args:
            gradient_checkpointing_kwargs: for `torch.utils.checkpoint`; `use_reentrant` is False unless given.

        Raises:
            InputError: a name that it does not take.
        """
        given = gradient_checkpointing_kwargs or {}
        wrong = sorted(str(name) for name in given if name not in CHECKPOINTING_ARGUMENTS)
        if wrong:
            allowed = ", ".join(CHECKPOINTING_ARGUMENTS)
            raise InputError(f"gradient_checkpointing_kwargs has {', '.join(wrong)}; allowed are {allowed}")
        self._set_checkpointing(True, {"use_reentrant": False, **given})

    activation_checkpointing_enable = gradient_checkpointing_enable

    def gradient_checkpointing_disable(self) -> None:
        """Keep all activations again."""
        self._set_checkpointing(False, {})

    activation_checkpointing_disable = gradient_checkpointing_disable

    def _set_checkpointing(self, enabled: bool, kwargs: dict[str, Any]) -> None:
        for module in self.modules():
            if hasattr(module, "gradient_checkpointing"):
                vars(module).update(gradient_checkpointing=enabled, checkpointing_kwargs=kwargs)

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether gradient checkpointing is on."""
        return any(getattr(module, "gradient_checkpointing", False) for module in self.modules())

    def enable_input_require_grads(self) -> None:
        """Let gradients flow to the embedding's output although the embedding is frozen (adapters need this)."""
        self.disable_input_require_grads()
        hook = self.get_input_embeddings().register_forward_hook(_require_grad)
        self._input_grad_hooks = [hook]

    def disable_input_require_grads(self) -> None:
        """Undo `enable_input_require_grads`."""
        for hook in getattr(self, "_input_grad_hooks", []):
            hook.remove()
        self._input_grad_hooks: list[Any] = []

    # Facts

    @property
    def device(self) -> torch.device:
        """Device of the first parameter."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the first floating-point parameter."""
        return next(parameter.dtype for parameter in self.parameters() if parameter.is_floating_point())

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Number of parameters, shared ones counted once.

        Args:
            only_trainable: leave out frozen ones; quantized weights are.
            exclude_embeddings: leave out the input embedding.
        """
        embedding = self.get_input_embeddings() if exclude_embeddings else None
        skipped = set[int]() if embedding is None else {id(p) for p in embedding.parameters()}
        plain = sum(
            parameter.numel()
            for parameter in self.parameters()
            if id(parameter) not in skipped and (parameter.requires_grad or not only_trainable)
        )
        return plain if only_trainable else plain + num_quantized(self, embedding)

    def can_generate(self) -> bool:
        """Whether this class has `generate`."""
        return False

    def _returns_dict(self, return_dict: bool | None) -> bool:
        return bool(self.config.return_dict if return_dict is None else return_dict)


def _require_grad(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
    output.requires_grad_(True)


def _padded_size(new_num_tokens: int | None, old_size: int, multiple: int | None) -> int:
    size = old_size if new_num_tokens is None else new_num_tokens
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InputError(f"new_num_tokens is {new_num_tokens!r}; it must be an integer >= 1")
    if multiple is None:
        return size
    if isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 1:
        raise InputError(f"pad_to_multiple_of is {multiple!r}; it must be an integer >= 1")
    return -(-size // multiple) * multiple
