"""Whatever a config file holds, reading it gives a valid config or a ConfigError."""

import warnings
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seed_oss import GenerationConfig, SeedOssConfig
from seed_oss.config.generation import GenerationConfig as _Generation
from seed_oss.config.rope_parameters import ROPE_TYPES
from seed_oss.config.unimplemented import UNIMPLEMENTED
from seed_oss.errors import ConfigError

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, 2, 3, 8, 64, 128, 10**400, -(10**400)])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["default", "linear", "yarn", "longrope", "llama3", "eager", "sdpa", "float16", "silu"])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
ROPE_KEYS = sorted({key for spec in ROPE_TYPES.values() for key in (*spec.required, *spec.optional, *spec.filled)})
ROPE = st.fixed_dictionaries(
    {},
    optional={
        "rope_type": st.sampled_from(sorted(ROPE_TYPES)) | JSON,
        "type": st.sampled_from(sorted(ROPE_TYPES)) | JSON,
        "rope_theta": st.floats(0.5, 1e8) | JSON,
        "partial_rotary_factor": st.floats(0, 1) | JSON,
        **{
            key: st.floats(0.5, 64) | st.integers(1, 64) | st.lists(st.just(1.0), min_size=2, max_size=4) | JSON
            for key in ROPE_KEYS
        },
    },
)
NAMES = [*SeedOssConfig.FIELDS, "num_labels", "torch_dtype", "output_attentions", "attn_implementation", "model_type"]
NAMES += [
    "classifier_dropout",
    "original_max_position_embeddings",
    "per_layer_config",
    "to_dict",
    "_extra",
    "rope_theta",
]
CONFIGS = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=6), JSON, max_size=6)


def read(cls: Any, content: Any, **kwargs: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return cls.from_dict(content, **kwargs)
        except ConfigError as error:
            assert 20 < len(str(error)) < 2000  # noqa: PT017
            return None


@given(content=CONFIGS | JSON, rope=st.none() | ROPE | JSON, form=st.sampled_from(["rope_scaling", "rope_parameters"]))
@settings(max_examples=400, deadline=None)
def test_any_content_gives_a_config_or_a_config_error(content: Any, rope: Any, form: str):
    if isinstance(content, dict) and rope is not None:
        content = {**content, form: rope}
    config = read(SeedOssConfig, content)
    if config is not None:
        config.validate()
        assert config.num_parameters() > 0
        assert config.kv_bytes_per_token() > 0
        assert read(SeedOssConfig, config.to_dict()) == config


@given(content=CONFIGS, overrides=CONFIGS, rope=ROPE | st.none())
@settings(max_examples=200, deadline=None)
def test_any_override_gives_a_config_or_a_config_error(content: Any, overrides: Any, rope: Any):
    overrides = {key: value for key, value in overrides.items() if key.isidentifier()}
    if rope is not None:
        overrides["rope_scaling"] = rope
    read(SeedOssConfig, content, **overrides)


@given(rope=ROPE)
@settings(max_examples=300, deadline=None)
def test_rotary_parameters_that_pass_can_be_computed(rope: Any):
    from seed_oss.ops.rope import rope_frequencies

    config = read(SeedOssConfig, {"rope_parameters": rope, "head_dim": 4, "max_position_embeddings": 64})
    if config is not None:
        inv_freq, scaling = rope_frequencies(config)
        assert inv_freq.shape == (2,)
        assert isinstance(scaling, float | int)


@example({"self": None})
@given(
    content=st.dictionaries(
        st.sampled_from([*_Generation.FIELDS, *UNIMPLEMENTED]) | st.text(max_size=6), JSON, max_size=6
    )
)
@settings(max_examples=300, deadline=None)
def test_any_generation_settings_give_a_config_or_a_config_error(content: Any):
    config = read(GenerationConfig, content)
    if config is not None:
        assert read(GenerationConfig, config.to_diff_dict()) == config
        try:
            config.validate()
        except ConfigError as error:
            assert "is" in str(error)  # noqa: PT017


def test_huge_integers_do_not_break_the_message():
    with pytest.raises(ConfigError, match="hidden_size is <integer of 16610 bits>"):
        SeedOssConfig(hidden_size=10**5000)
