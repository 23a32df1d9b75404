"""SeedOssConfig: the shape of a model and what its heads need, as in `config.json`."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

from seed_oss.config.base import check_keys, named
from seed_oss.config.fields import (
    DTYPE_BYTES,
    MAX_LABELS,
    Field,
    boolean,
    choice,
    dtype_name,
    integer,
    json_copy,
    optional,
    refuse,
    shown,
)
from seed_oss.config.known_keys import DROPPED_KEYS, KNOWN_KEYS, OPTIONAL_FIELDS
from seed_oss.config.model_fields import (
    ARGUMENT_KEYS,
    CALLER_KEYS,
    COMMON_FIELDS,
    LABEL_KEYS,
    ROPE_KEYS,
    SHAPE_FIELDS,
    SIZE,
    SWITCH_KEYS,
)
from seed_oss.config.overrides import merge_overrides, split_overrides
from seed_oss.config.rope_parameters import RopeInputs, check_rope, repeats_original_length, standardize_rope
from seed_oss.config.stored import StoredConfig
from seed_oss.errors import ConfigError

MAX_PARAMETERS = 2**56  # in float64 still a number of bytes that fits 64 bits with a sign
_SDPA_NAMES = ("flash_attention_2", "flash_attention_3")


class SeedOssConfig(StoredConfig):
    """Configuration of a Seed-OSS model; every field is a keyword argument and an attribute.

    Fields are checked when they are set, here or later. Fields that must fit each other are checked on construction,
    when a model is built and when the config is saved (`validate`). Keys that are not fields are kept, written back
    and named in one warning; keys that start with an underscore, and `auto_map`, are dropped.

    Args:
        vocab_size: number of tokens (155,136).
        hidden_size: width of the residual stream (4096; the released models have 5120). It need not be
            num_attention_heads * head_dim.
        intermediate_size: width inside the MLP (27,648).
        num_hidden_layers: number of decoder layers (64).
        num_attention_heads: number of query heads (80), a multiple of num_key_value_heads.
        num_key_value_heads: number of key/value heads (8); None means num_attention_heads.
        head_dim: elements per head (128), even; None means hidden_size // num_attention_heads.
        hidden_act: activation in the MLP ("silu").
        max_position_embeddings: longest sequence in tokens that the positions are meant for (524,288).
        initializer_range: standard deviation of new weights (0.02).
        rms_norm_eps: added to the variance in RMSNorm (1e-6).
        use_cache: whether forward returns a cache unless told otherwise (True).
        pad_token_id, bos_token_id, eos_token_id: special token ids (1, 0, 2) or None; eos may be a list.
        pretraining_tp: stored and not used (1), as in the reference.
        tie_word_embeddings: whether the output head shares the embedding matrix (False).
        attention_bias: bias on the q, k and v projections (True).
        attention_out_bias: bias on the output projection of attention (False).
        mlp_bias: bias on the three projections of the MLP (False).
        attention_dropout: rate on attention probabilities while training (0.1).
        residual_dropout: rate on the outputs of attention and MLP while training (0.1).
        rope_parameters: rotary positions in the 5.x form, e.g. {"rope_type": "yarn", "rope_theta": 1e7, "factor": 4.0}.
        rope_theta, rope_scaling: the same in the 4.x form (10,000 and None).
        num_labels, id2label, label2id, problem_type: labels of the classification heads (two labels).
        output_hidden_states, output_attentions, return_dict: what forward returns unless told otherwise; hidden states
            also as an index or a list of indices.
        dtype: of the stored weights: a name or a torch dtype, kept as a name; `torch_dtype` is accepted as well.
        attn_implementation: "eager", "sdpa" or None (choose); never written to a file.
        classifier_dropout, hidden_dropout: optional rates of the classification heads; no attribute unless given.

    Raises:
        ConfigError: a value of a wrong type, outside its range, or that does not fit another one.

    Source: transformers models/seed_oss/configuration_seed_oss.py for names and defaults.
    """

    FIELDS: ClassVar[Mapping[str, Field]] = {**SHAPE_FIELDS, **COMMON_FIELDS}
    file_name: ClassVar[str] = "config.json"
    model_type: ClassVar[str] = "seed_oss"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    hidden_act: str
    max_position_embeddings: int
    initializer_range: float
    rms_norm_eps: float
    use_cache: bool
    pad_token_id: int | None
    bos_token_id: int | None
    eos_token_id: int | list[int] | None
    pretraining_tp: int
    tie_word_embeddings: bool
    attention_bias: bool
    attention_out_bias: bool
    attention_dropout: float
    residual_dropout: float
    mlp_bias: bool
    head_dim: int
    architectures: list[str] | None
    output_hidden_states: bool | int | list[int] | None
    return_dict: bool | None
    dtype: str | None
    chunk_size_feed_forward: int
    is_encoder_decoder: bool
    id2label: dict[int, str]
    label2id: dict[str, int] | None
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None
    transformers_version: str | None

    def __init__(self, /, **fields: Any) -> None:
        self._extra = {}
        self._name_or_path = ""
        self._output_attentions: bool | None = False
        self._attn_implementation: str | None = None
        self._rope_parameters: dict[str, Any] = {}
        self._assign(check_keys("config", fields))
        self.validate()
        _warn_of_token_ids(self)

    def _assign(self, given: dict[str, Any]) -> None:
        """Set every field from `given` or its default; what is no field goes to the extra keys."""
        _check_model_type(given.pop("model_type", self.model_type))
        rope = RopeInputs(**{key: given.pop(key) for key in ROPE_KEYS if key in given})
        switches = {key: given.pop(key) for key in SWITCH_KEYS if key in given}
        num_labels = given.pop("num_labels", None)
        _use_dtype_alias(given)
        _resolve_head_counts(given)
        self._assign_labels(given.pop("id2label", None), given.pop("label2id", None), num_labels)
        for name in self.FIELDS.keys() - LABEL_KEYS:
            setattr(self, name, given.pop(name, self.FIELDS[name].default))
        self._keep_extra(given)
        self._standardize_rope(rope)
        if repeats_original_length(rope, self._extra):
            del self._extra["original_max_position_embeddings"]
        for key, value in switches.items():
            setattr(self, SWITCH_KEYS[key], value)

    def _assign_labels(self, id2label: Any, label2id: Any, num_labels: Any) -> None:
        if id2label is None:  # label2id alone is checked and then replaced, as in the reference
            self.label2id = label2id
            self.num_labels = 2 if num_labels is None else num_labels
            return
        self.id2label, self.label2id = id2label, label2id
        if num_labels is not None and num_labels != len(self.id2label):
            warnings.warn(
                f"num_labels is {shown(num_labels)} but id2label has {len(self.id2label)} names; num_labels is used "
                "and the names are replaced. Give one of the two",
                stacklevel=4,
            )
            self.num_labels = num_labels

    def _keep_extra(self, given: dict[str, Any]) -> None:
        kept = {key: value for key, value in given.items() if not key.startswith("_") and key not in DROPPED_KEYS}
        if kept.get("per_layer_config"):
            refuse("per_layer_config", kept["per_layer_config"], "absent: every layer of a Seed-OSS model is alike")
        for key, value in kept.items():
            check = OPTIONAL_FIELDS.get(key)
            self._extra[key] = json_copy(key, check(key, value) if check else value)
        unknown = kept.keys() - KNOWN_KEYS
        if unknown:
            warnings.warn(
                f"config has keys that seed_oss does not know: {named(unknown)}. They are kept and written back, and "
                "change nothing here",
                stacklevel=4,
            )

    def __setattr__(self, name: str, value: Any) -> None:
        if name in OPTIONAL_FIELDS:
            value = OPTIONAL_FIELDS[name](name, value)
            super().__setattr__(name, value)
            if name == "original_max_position_embeddings":
                self._standardize_rope(RopeInputs(rope_parameters=self._rope_parameters))
        elif name == "_attn_implementation":
            object.__setattr__(self, name, _attn_implementation(value))
        else:
            super().__setattr__(name, value)

    # rotary positions: one dict behind three names

    @property
    def rope_parameters(self) -> dict[str, Any]:
        """Rotary positions in the 5.x form: always with rope_type and rope_theta."""
        return self._rope_parameters

    @rope_parameters.setter
    def rope_parameters(self, value: Mapping[str, Any] | None) -> None:
        self._standardize_rope(RopeInputs(rope_parameters=value, rope_theta=self.rope_theta))

    @property
    def rope_scaling(self) -> dict[str, Any]:
        """The same dict as `rope_parameters`, under its 4.x name."""
        return self._rope_parameters

    @rope_scaling.setter
    def rope_scaling(self, value: Mapping[str, Any] | None) -> None:
        self._standardize_rope(RopeInputs(rope_scaling=value, rope_theta=self.rope_theta))

    @property
    def rope_theta(self) -> float:
        """Base of the rotary frequencies."""
        return self._rope_parameters["rope_theta"]

    @rope_theta.setter
    def rope_theta(self, value: float) -> None:
        self._standardize_rope(RopeInputs(rope_parameters={**self._rope_parameters, "rope_theta": value}))

    @property
    def partial_rotary_factor(self) -> float:
        """Share of a head that is rotated; only rope_type "proportional" uses it."""
        return self._rope_parameters.get("partial_rotary_factor", 1.0)

    @partial_rotary_factor.setter
    def partial_rotary_factor(self, value: float) -> None:
        self._standardize_rope(RopeInputs(rope_parameters={**self._rope_parameters, "partial_rotary_factor": value}))

    def _standardize_rope(self, given: RopeInputs) -> None:
        original = self._extra.get("original_max_position_embeddings")
        given = replace(given, original_max_position_embeddings=original)
        self._rope_parameters = standardize_rope(given, self.max_position_embeddings)

    # labels

    @property
    def num_labels(self) -> int:
        """Number of labels; setting another number gives the labels new names LABEL_0, LABEL_1, ..."""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, value: int) -> None:
        count = integer(1, MAX_LABELS)("num_labels", value)
        if "id2label" not in vars(self) or count != self.num_labels:
            self.id2label = {index: f"LABEL_{index}" for index in range(count)}
            self.label2id = {name: index for index, name in self.id2label.items()}

    # what forward returns

    @property
    def output_attentions(self) -> bool | None:
        """Whether forward returns attention weights; needs, and if free chooses, eager attention."""
        return self._output_attentions

    @output_attentions.setter
    def output_attentions(self, value: bool | None) -> None:
        value = optional(boolean)("output_attentions", value)
        if value and self._attn_implementation is None:
            self._attn_implementation = "eager"
        self._check_output_attentions(value)
        self._output_attentions = value

    def _check_output_attentions(self, value: bool | None) -> None:
        if value and self._attn_implementation not in (None, "eager"):
            raise ConfigError(
                f"output_attentions is true with attn_implementation {self._attn_implementation!r}, which computes no "
                "attention weights; set attn_implementation to 'eager'"
            )

    @property
    def attn_implementation(self) -> str | None:
        """ "eager", "sdpa" or None (the model chooses); belongs to this process and is never saved."""
        return self._attn_implementation

    @attn_implementation.setter
    def attn_implementation(self, value: str | None) -> None:
        self._attn_implementation = value

    @property
    def use_return_dict(self) -> bool | None:
        """The same as `return_dict`, under its 4.x name."""
        return self.return_dict

    # names

    @property
    def torch_dtype(self) -> str | None:
        """The same as `dtype`, under its 4.x name."""
        return self.dtype

    @torch_dtype.setter
    def torch_dtype(self, value: Any) -> None:
        self.dtype = value

    @property
    def name_or_path(self) -> str:
        """What `from_pretrained` was given, else an empty string."""
        return self._name_or_path

    @name_or_path.setter
    def name_or_path(self, value: object) -> None:
        self._name_or_path = str(value)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> Self:
        """This config: it describes a text model as a whole. Asked for by libraries that also know other models."""
        return self

    # checks and sizes

    def validate(self) -> None:
        """Check the fields that must fit each other.

        Raises:
            ConfigError: two fields contradict each other, or rope_parameters are wrong.
        """
        if self.num_attention_heads % self.num_key_value_heads:
            refuse(
                "num_attention_heads",
                self.num_attention_heads,
                f"a multiple of num_key_value_heads, which is {self.num_key_value_heads}",
            )
        if self.num_parameters() > MAX_PARAMETERS:
            raise ConfigError(
                f"the sizes make a model of {self.num_parameters():.3g} parameters, at most {MAX_PARAMETERS:.3g} can "
                "be counted in bytes; check vocab_size, hidden_size, intermediate_size, num_attention_heads, head_dim"
            )
        if self.pad_token_id is not None and self.pad_token_id >= self.vocab_size:
            refuse("pad_token_id", self.pad_token_id, f"null or less than vocab_size, which is {self.vocab_size}")
        if self.problem_type == "single_label_classification" and self.num_labels == 1:
            raise ConfigError(
                "problem_type is 'single_label_classification' with num_labels 1; it must be at least 2 (or use "
                "problem_type 'regression')"
            )
        self._check_output_attentions(self._output_attentions)
        check_rope(self._rope_parameters, head_dim=self.head_dim, max_position_embeddings=self.max_position_embeddings)

    def num_parameters(self) -> int:
        """Number of parameters of the causal language model; a tied head counts once (36,151,104,512 for the 36B)."""
        hidden, q_dim, kv_dim = (
            self.hidden_size,
            self.num_attention_heads * self.head_dim,
            self.num_key_value_heads * self.head_dim,
        )
        attention = 2 * hidden * (q_dim + kv_dim)
        attention += (q_dim + 2 * kv_dim) * self.attention_bias + hidden * self.attention_out_bias
        mlp = 3 * hidden * self.intermediate_size + (2 * self.intermediate_size + hidden) * self.mlp_bias
        layer = attention + mlp + 2 * hidden
        embeddings = self.vocab_size * hidden * (1 if self.tie_word_embeddings else 2)
        return embeddings + self.num_hidden_layers * layer + hidden

    def kv_bytes_per_token(self, dtype: Any = None) -> int:
        """Bytes that one token takes in the key/value cache of all layers.

        Args:
            dtype: of the cache, a name or a torch dtype; None means the config's own, or bfloat16 if that is None.

        Raises:
            ConfigError: an unknown dtype.
        """
        name = dtype_name("dtype", "bfloat16" if dtype is None and self.dtype is None else dtype or self.dtype)
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim * DTYPE_BYTES[name]

    @classmethod
    def seed_oss_36b(cls, **changes: Any) -> Self:
        """The shape of the released 36B models, which differs from the defaults in hidden_size and rope_theta.

        Args:
            changes: fields to change.
        """
        released = {
            "hidden_size": 5120,
            "rope_theta": 1e7,
            "dtype": "bfloat16",
            "architectures": ["SeedOssForCausalLM"],
        }
        return cls(**{**released, **changes})

    # reading and writing

    def to_dict(self) -> dict[str, Any]:
        """Every field and kept key, in the 5.x form, as a dict that shares nothing with this object."""
        return {
            **{key: json_copy(key, value) for key, value in self._extra.items()},
            **{name: json_copy(name, getattr(self, name)) for name in self.FIELDS},
            "rope_parameters": json_copy("rope_parameters", self._rope_parameters),
            "output_attentions": self._output_attentions,
            "model_type": self.model_type,
        }

    def to_diff_dict(self) -> dict[str, Any]:
        """As `to_dict`, without the common fields that hold their default."""
        common = {name: field.default for name, field in COMMON_FIELDS.items()} | {"output_attentions": False}
        return {key: value for key, value in self.to_dict().items() if key not in common or value != common[key]}

    def _for_file(self, content: dict[str, Any]) -> dict[str, Any]:
        return {**self._rope_in_old_form(), **content}

    def _rope_in_old_form(self) -> dict[str, Any]:
        rope = dict(self._rope_parameters)
        result: dict[str, Any] = {"rope_theta": rope.pop("rope_theta")}
        if rope["rope_type"] != "default":
            result["rope_scaling"] = rope
        original = rope.get("original_max_position_embeddings")
        if rope["rope_type"] == "longrope" and original != self.max_position_embeddings:
            result["original_max_position_embeddings"] = original  # the one place where 4.57 looks for it
        return result

    def _check_before_saving(self) -> None:
        self.validate()

    @classmethod
    def _from_content(cls, content: dict[str, Any], kwargs: dict[str, Any]) -> tuple[Self, dict[str, Any]]:
        fields = {key: value for key, value in content.items() if key not in CALLER_KEYS}
        overrides, unused = split_overrides(fields, kwargs, known=cls.FIELDS.keys() | ARGUMENT_KEYS)
        return cls(**merge_overrides(fields, overrides)), unused


def _check_model_type(value: object) -> None:
    if value != SeedOssConfig.model_type:
        raise ConfigError(
            f"model_type is {shown(value)}; it must be {SeedOssConfig.model_type!r}. Models of other types must be "
            "converted first (seed-oss convert reads GGUF files)"
        )


def _use_dtype_alias(given: dict[str, Any]) -> None:
    alias = given.pop("torch_dtype", None)
    if given.get("dtype") is None and alias is not None:
        given["dtype"] = dtype_name("torch_dtype", alias)


def _resolve_head_counts(given: dict[str, Any]) -> None:
    """Replace null num_key_value_heads and head_dim by what they mean."""
    fields = SeedOssConfig.FIELDS
    num_heads = SIZE("num_attention_heads", given.get("num_attention_heads", fields["num_attention_heads"].default))
    hidden_size = SIZE("hidden_size", given.get("hidden_size", fields["hidden_size"].default))
    if "num_key_value_heads" in given and given["num_key_value_heads"] is None:
        given["num_key_value_heads"] = num_heads
    if "head_dim" in given and given["head_dim"] is None:
        if hidden_size < num_heads:
            refuse("hidden_size", hidden_size, f"at least num_attention_heads ({num_heads}) where head_dim is null")
        given["head_dim"] = hidden_size // num_heads


def _attn_implementation(value: object) -> str | None:
    if value in _SDPA_NAMES:
        warnings.warn(f"attn_implementation {value!r} means 'sdpa' here: torch's own fused kernels", stacklevel=4)
        return "sdpa"
    return optional(choice("eager", "sdpa"))("attn_implementation", value)


def _warn_of_token_ids(config: SeedOssConfig) -> None:
    eos = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    for name, token_id in [("bos_token_id", config.bos_token_id), *(("eos_token_id", token_id) for token_id in eos)]:
        if token_id is not None and token_id >= config.vocab_size:
            warnings.warn(
                f"{name} is {token_id}, outside the vocabulary of {config.vocab_size} tokens; the model cannot read or "
                "write it. Set it to null or to an id of the tokenizer",
                stacklevel=3,
            )
