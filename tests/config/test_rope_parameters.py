"""Rotary parameters: both written forms, fill-ins, checks of every type."""

from typing import Any

import pytest

from seed_oss import SeedOssConfig
from seed_oss.config.rope_parameters import ROPE_TYPES
from seed_oss.errors import ConfigError

LISTS = {"short_factor": [1.0] * 64, "long_factor": [2.0] * 64}
VALID: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2},
    "yarn": {"factor": 4.0},
    "longrope": LISTS,
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "proportional": {"partial_rotary_factor": 0.5},
}


def rope(name: str, /, **changes: Any) -> dict[str, Any]:
    return {"rope_type": name, **VALID[name], **changes}


def test_every_type_has_a_valid_example():
    assert VALID.keys() == ROPE_TYPES.keys()


@pytest.mark.parametrize("rope_type", VALID)
def test_the_table_says_what_must_be_given(rope_type: str) -> None:
    """The documentation is made from it."""
    required = ROPE_TYPES[rope_type].required
    given = {key: value for key, value in VALID[rope_type].items() if key in required}
    SeedOssConfig(rope_parameters={"rope_type": rope_type, **given})
    for key in required:
        rest = {name: value for name, value in given.items() if name != key}
        with pytest.raises(ConfigError, match=f"{key} is missing"):
            SeedOssConfig(rope_parameters={"rope_type": rope_type, **rest})
    assert all(key in required or key in ROPE_TYPES[rope_type].optional for key in VALID[rope_type])


@pytest.mark.parametrize("rope_type", VALID)
@pytest.mark.parametrize("form", ["rope_parameters", "rope_scaling"])
def test_both_forms_give_the_same(rope_type: str, form: str):
    config = SeedOssConfig(**{form: rope(rope_type)}, rope_theta=1e6)
    assert config.rope_parameters == {**rope(rope_type), "rope_theta": 1e6, **_filled(rope_type)}
    assert config.rope_scaling is config.rope_parameters
    assert config.rope_theta == 1e6
    config.validate()


def _filled(rope_type: str) -> dict[str, Any]:
    return {"original_max_position_embeddings": 524_288} if rope_type in ("yarn", "longrope", "llama3") else {}


def test_the_old_name_of_the_type():
    config = SeedOssConfig(rope_scaling={"type": "linear", "factor": 2.0})
    assert config.rope_parameters["rope_type"] == config.rope_parameters["type"] == "linear"
    with pytest.raises(ConfigError, match="type 'linear' and rope_type 'yarn'; they are two names"):
        SeedOssConfig(rope_scaling={"type": "linear", "rope_type": "yarn", "factor": 2.0})


@pytest.mark.parametrize("empty", [None, {}])
@pytest.mark.parametrize("form", ["rope_parameters", "rope_scaling"])
def test_nothing_said_is_the_default_type(form: str, empty: object):
    assert SeedOssConfig(**{form: empty}).rope_parameters == {"rope_type": "default", "rope_theta": 10_000.0}


def test_the_base_in_the_object_wins():
    config = SeedOssConfig(rope_parameters={"rope_type": "default", "rope_theta": 7.0}, rope_theta=5.0)
    assert config.rope_theta == 7.0


def test_rope_scaling_wins_over_rope_parameters_and_says_so():
    with pytest.warns(UserWarning, match="disagree on factor, rope_type"):
        config = SeedOssConfig(rope_scaling=rope("linear"), rope_parameters=rope("yarn"))
    assert config.rope_parameters["rope_type"] == "linear"


def test_the_length_of_the_config_wins_over_the_one_of_the_object():
    config = SeedOssConfig(
        rope_scaling=rope("yarn", original_max_position_embeddings=4096), original_max_position_embeddings=100
    )
    assert config.rope_parameters["original_max_position_embeddings"] == 100


def test_the_length_of_the_config_changes_later():
    config = SeedOssConfig(rope_scaling=rope("yarn"))
    config.original_max_position_embeddings = 4096
    assert config.rope_parameters["original_max_position_embeddings"] == 4096


def test_setters_keep_the_base():
    config = SeedOssConfig(rope_theta=1e7)
    config.rope_scaling = rope("linear")
    assert config.rope_parameters == {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e7}
    config.rope_parameters = None
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 1e7}
    config.rope_theta = 5
    assert config.rope_parameters["rope_theta"] == 5.0
    config.rope_parameters = {"rope_type": "default", "rope_theta": 9.0}
    assert config.rope_theta == 9.0


def test_the_given_object_is_not_changed():
    given = {"rope_type": "yarn", "factor": 2.0}
    SeedOssConfig(rope_scaling=given)
    assert given == {"rope_type": "yarn", "factor": 2.0}


def test_partial_rotary_factor_moves_into_the_parameters():
    assert SeedOssConfig(partial_rotary_factor=0.5).rope_parameters["partial_rotary_factor"] == 0.5
    config = SeedOssConfig(rope_parameters=rope("proportional"), partial_rotary_factor=0.25)
    assert config.partial_rotary_factor == 0.5
    config.partial_rotary_factor = 0.75
    assert config.rope_parameters["partial_rotary_factor"] == 0.75
    assert SeedOssConfig().partial_rotary_factor == 1.0


@pytest.mark.parametrize("rope_type", ["linear", "dynamic", "yarn", "longrope", "llama3"])
def test_partial_rotary_factor_is_refused_where_the_reference_cannot_run_it(rope_type: str):
    with pytest.raises(ConfigError, match=rf"partial_rotary_factor is 0.5 with rope_type '{rope_type}'; it must be 1"):
        SeedOssConfig(rope_parameters=rope(rope_type), partial_rotary_factor=0.5)
    SeedOssConfig(rope_parameters=rope(rope_type, partial_rotary_factor=1))


REQUIRED = [(name, key) for name, spec in ROPE_TYPES.items() for key in spec.required if not key.startswith("original")]


@pytest.mark.parametrize(("rope_type", "key"), REQUIRED)
def test_a_missing_parameter_is_named(rope_type: str, key: str):
    given = rope(rope_type)
    del given[key]
    with pytest.raises(ConfigError, match=rf"rope_scaling.{key} is missing; rope_type '{rope_type}' needs it"):
        SeedOssConfig(rope_scaling=given)


WRONG: list[tuple[str, str, Any]] = [
    *[
        (name, "factor", value)
        for name in ("linear", "dynamic", "yarn", "longrope", "llama3")
        for value in (0.5, "2", True)
    ],
    *[(name, "factor", None) for name in ("linear", "dynamic", "llama3")],
    ("linear", "rope_theta", -1.0),
    ("default", "rope_theta", None),
    ("yarn", "rope_theta", 1.0),
    ("yarn", "original_max_position_embeddings", 4096.0),
    ("yarn", "original_max_position_embeddings", None),
    ("yarn", "attention_factor", 0.0),
    ("yarn", "beta_fast", "fast"),
    ("yarn", "beta_fast", 0.5),
    ("yarn", "beta_fast", 1e308),
    ("yarn", "beta_slow", 1e-320),
    ("yarn", "beta_slow", 33),
    ("yarn", "mscale", -1.0),
    ("yarn", "mscale_all_dim", []),
    ("yarn", "truncate", 1),
    ("yarn", "truncate", None),
    ("longrope", "short_factor", [1.0] * 63),
    ("longrope", "long_factor", 2.0),
    ("longrope", "long_factor", ["x"] * 64),
    ("longrope", "short_factor", [0.0] * 64),
    ("longrope", "attention_factor", -1),
    ("longrope", "original_max_position_embeddings", 1),
    ("llama3", "low_freq_factor", 0),
    ("llama3", "high_freq_factor", 1.0),
    ("llama3", "high_freq_factor", None),
    ("proportional", "partial_rotary_factor", -0.1),
    ("proportional", "factor", 0),
    ("default", "factor", 2.0),
    ("default", "full_attention", {}),
    ("linear", "low_freq_factor", 1.0),
    ("default", "rope_type", "axial"),
    ("default", "rope_type", None),
    ("default", "rope_type", ["default"]),
    ("default", "rope_type", "default\n" * 100),
]


@pytest.mark.parametrize(("rope_type", "key", "value"), WRONG)
def test_a_wrong_parameter_names_itself_its_value_and_what_is_allowed(rope_type: str, key: str, value: Any):
    with pytest.raises(ConfigError) as caught:
        SeedOssConfig(rope_scaling=rope(rope_type, **{key: value}))
    message = str(caught.value)
    assert key in message or (key == "beta_slow" and "beta_fast" in message)
    assert any(word in message for word in ("must be", "must have", "allowed are"))
    assert len(message) < 500


def test_a_factor_without_a_type_is_not_ignored():
    with pytest.raises(ConfigError, match=r"rope_scaling\.factor is 2\.0, but rope_type 'default' has no"):
        SeedOssConfig(rope_scaling={"factor": 2.0})


def test_a_null_yarn_factor_is_the_ratio_of_the_lengths():
    assert SeedOssConfig(rope_scaling=rope("yarn", factor=None, original_max_position_embeddings=4096))
    with pytest.raises(ConfigError, match=r"factor is null, which means max_position_embeddings \(1024\)"):
        SeedOssConfig(
            rope_scaling=rope("yarn", factor=None, original_max_position_embeddings=4096), max_position_embeddings=1024
        )


def test_dynamic_needs_more_than_one_pair():
    with pytest.raises(ConfigError, match="head_dim is 2; it must be at least 4 with rope_type 'dynamic'"):
        SeedOssConfig(rope_scaling=rope("dynamic"), head_dim=2)
    SeedOssConfig(head_dim=2)


def test_a_parameter_changed_in_place_is_checked_by_validate():
    config = SeedOssConfig(rope_scaling=rope("linear"))
    config.rope_parameters["factor"] = "x"
    with pytest.raises(ConfigError, match=r"rope_parameters.factor is 'x'"):
        config.validate()


def test_the_lists_of_longrope_are_checked_against_a_head_dim_set_later():
    config = SeedOssConfig(rope_scaling=rope("longrope"))
    config.head_dim = 64
    with pytest.raises(ConfigError, match="short_factor has 64 numbers; it must have 32"):
        config.validate()
