"""SeedOssConfig as a Python object: fields, checks, labels, attention, kept keys."""

import copy
import math
import pickle
import warnings
from typing import Any

import pytest
import torch

from seed_oss import SeedOssConfig
from seed_oss.errors import ConfigError


def test_released_shape_has_the_published_numbers():
    config = SeedOssConfig.seed_oss_36b()
    assert config.num_parameters() == 36_151_104_512
    assert config.kv_bytes_per_token("bfloat16") == 256 * 1024
    assert (config.hidden_size, config.rope_theta, config.dtype) == (5120, 1e7, "bfloat16")
    assert config.num_attention_heads * config.head_dim == 2 * config.hidden_size


def test_default_shape_is_not_the_released_one():
    config = SeedOssConfig()
    assert config.num_parameters() == 28_921_040_896
    assert (config.hidden_size, config.rope_theta) == (4096, 10_000.0)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"tie_word_embeddings": True}, -155_136 * 5120),
        ({"attention_bias": False}, -64 * (10_240 + 2 * 1024)),
        ({"attention_out_bias": True}, 64 * 5120),
        ({"mlp_bias": True}, 64 * (2 * 27_648 + 5120)),
        ({"num_hidden_layers": 63}, -540_039_168),
    ],
)
def test_num_parameters_follows_the_switches(changes: dict[str, object], difference: int):
    assert SeedOssConfig.seed_oss_36b(**changes).num_parameters() - 36_151_104_512 == difference


@pytest.mark.parametrize(
    ("dtype", "size"), [("float32", 4), (torch.float16, 2), ("torch.bfloat16", 2), ("float8_e4m3fn", 1), (None, 2)]
)
def test_kv_bytes_per_token(dtype: object, size: int):
    assert SeedOssConfig().kv_bytes_per_token(dtype) == 2 * 64 * 8 * 128 * size


def test_kv_bytes_per_token_takes_the_dtype_of_the_config():
    assert SeedOssConfig(dtype="float32").kv_bytes_per_token() == 2 * 64 * 8 * 128 * 4


def test_null_head_counts_are_derived():
    config = SeedOssConfig(hidden_size=64, num_attention_heads=4, head_dim=None, num_key_value_heads=None)
    assert (config.head_dim, config.num_key_value_heads) == (16, 4)


WRONG = [
    ("hidden_size", "a"),
    ("hidden_size", True),
    ("hidden_size", 64.0),
    ("hidden_size", 0),
    ("hidden_size", -5),
    ("hidden_size", 10**30),
    ("vocab_size", None),
    ("vocab_size", [5]),
    ("num_hidden_layers", 0),
    ("num_hidden_layers", 10_001),
    ("num_attention_heads", 0),
    ("num_attention_heads", 12),
    ("num_key_value_heads", 0),
    ("num_key_value_heads", 7),
    ("head_dim", 127),
    ("head_dim", 1),
    ("head_dim", "128"),
    ("hidden_act", 3),
    ("hidden_act", ""),
    ("max_position_embeddings", 0),
    ("initializer_range", -0.1),
    ("initializer_range", math.nan),
    ("initializer_range", False),
    ("rms_norm_eps", "1e-6"),
    ("rms_norm_eps", -1e-6),
    ("attention_dropout", 1.5),
    ("residual_dropout", -0.1),
    ("attention_bias", 1),
    ("mlp_bias", "true"),
    ("tie_word_embeddings", None),
    ("use_cache", "yes"),
    ("pad_token_id", -1),
    ("pad_token_id", 155_136),
    ("bos_token_id", 1.0),
    ("eos_token_id", "2"),
    ("eos_token_id", -2),
    ("dtype", "float31"),
    ("dtype", 16),
    ("torch_dtype", "blah"),
    ("architectures", "SeedOssForCausalLM"),
    ("problem_type", "ranking"),
    ("num_labels", 0),
    ("num_labels", True),
    ("num_labels", 2**16 + 1),
    ("id2label", {}),
    ("id2label", ["a"]),
    ("label2id", 3),
    ("output_attentions", 1),
    ("attn_implementation", "paged"),
    ("classifier_dropout", 2),
    ("hidden_dropout", "0.1"),
    ("is_causal", 0),
    ("rope_theta", 0),
    ("rope_theta", None),
    ("rope_theta", "1e7"),
    ("rope_scaling", "linear"),
    ("rope_scaling", [1]),
    ("original_max_position_embeddings", 0),
    ("per_layer_config", {"0": {"head_dim": 64}}),
    ("model_type", "llama"),
    ("partial_rotary_factor", 1.5),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_wrong_value_names_field_value_and_allowed_range(field: str, value: object):
    with pytest.raises(ConfigError) as caught:
        SeedOssConfig(**{field: value})
    message = str(caught.value)
    assert field in message
    assert "must be" in message
    shown = f"{value!r}"
    assert shown in message or len(shown) > 20


def test_list_items_and_label_keys_are_named():
    with pytest.raises(ConfigError, match=r"eos_token_id\[1\] is 'x'; it must be an integer"):
        SeedOssConfig(eos_token_id=[2, "x"])
    with pytest.raises(ConfigError, match="id2label key is 'one'; it must be an integer"):
        SeedOssConfig(id2label={"one": "a"})


def test_one_label_cannot_be_a_single_label_classification():
    with pytest.raises(ConfigError, match="num_labels 1; it must be at least 2"):
        SeedOssConfig(num_labels=1, problem_type="single_label_classification")


def test_setting_a_field_later_is_checked_at_once():
    config = SeedOssConfig()
    config.hidden_size = 64
    assert config.hidden_size == 64
    with pytest.raises(ConfigError, match="hidden_size is -1"):
        config.hidden_size = -1
    assert config.hidden_size == 64


def test_fields_that_must_fit_each_other_may_disagree_between_two_assignments():
    config = SeedOssConfig()
    config.num_attention_heads = 6
    with pytest.raises(ConfigError, match="num_attention_heads is 6; it must be a multiple of num_key_value_heads"):
        config.validate()
    config.num_key_value_heads = 2
    config.validate()


def test_ints_where_floats_are_meant_are_stored_as_floats():
    config = SeedOssConfig(attention_dropout=0, rms_norm_eps=1, rope_theta=10_000_000)
    for value in (config.attention_dropout, config.rms_norm_eps, config.rope_theta):
        assert isinstance(value, float)


@pytest.mark.parametrize("given", ["bfloat16", "torch.bfloat16", torch.bfloat16])
@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_dtype_is_a_plain_name(name: str, given: object):
    config = SeedOssConfig(**{name: given})
    assert config.dtype == config.torch_dtype == "bfloat16"
    config.torch_dtype = "half"
    assert config.dtype == "float16"


def test_dtype_wins_over_its_old_name():
    assert SeedOssConfig(dtype="float16", torch_dtype="float32").dtype == "float16"
    assert SeedOssConfig(dtype=None, torch_dtype="float32").dtype == "float32"


def test_num_labels_resizes_the_labels():
    config = SeedOssConfig()
    assert config.num_labels == 2
    config.num_labels = 4
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2", 3: "LABEL_3"}
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2, "LABEL_3": 3}
    config.id2label = {"0": "good", "1": "bad"}
    config.num_labels = 2
    assert config.id2label == {0: "good", 1: "bad"}


def test_num_labels_wins_over_labels_of_another_length():
    with pytest.warns(UserWarning, match="num_labels is 3 but id2label has 1"):
        config = SeedOssConfig(num_labels=3, id2label={0: "a"})
    assert config.num_labels == 3


def test_output_attentions_chooses_eager_attention():
    config = SeedOssConfig()
    config.output_attentions = True
    assert config.attn_implementation == "eager"
    assert SeedOssConfig(output_attentions=True).attn_implementation == "eager"


def test_output_attentions_refuses_another_implementation():
    config = SeedOssConfig(attn_implementation="sdpa")
    with pytest.raises(ConfigError, match="set attn_implementation to 'eager'"):
        config.output_attentions = True
    assert config.output_attentions is False
    with pytest.raises(ConfigError, match="output_attentions"):
        SeedOssConfig(output_attentions=True, attn_implementation="sdpa")


def test_attn_implementation_is_never_written():
    config = SeedOssConfig(attn_implementation="eager")
    assert config._attn_implementation == "eager"
    assert "eager" not in config.to_json_string(use_diff=False)


def test_flash_attention_means_sdpa_with_one_warning():
    with pytest.warns(UserWarning, match="means 'sdpa'") as caught:
        config = SeedOssConfig(attn_implementation="flash_attention_2")
    assert config.attn_implementation == "sdpa"
    assert len(caught) == 1


def test_use_return_dict_answers():
    assert SeedOssConfig().use_return_dict is True
    assert SeedOssConfig(return_dict=False).use_return_dict is False


def test_optional_fields_are_no_attributes_unless_given():
    config = SeedOssConfig()
    assert getattr(config, "classifier_dropout", None) is None
    assert not hasattr(config, "hidden_dropout")
    config = SeedOssConfig(classifier_dropout=0.3)
    assert config.classifier_dropout == 0.3
    config.hidden_dropout = 0.5
    assert config.to_dict()["hidden_dropout"] == 0.5
    with pytest.raises(ConfigError, match="hidden_dropout is 7"):
        config.hidden_dropout = 7


def test_unknown_keys_are_kept_and_named_in_one_warning():
    with pytest.warns(UserWarning, match="'my_key', 'other'") as caught:
        config = SeedOssConfig(my_key={"a": [1]}, other=None)
    assert len(caught) == 1
    assert config.my_key == {"a": [1]}
    assert config.to_diff_dict()["my_key"] == {"a": [1]}
    assert "other" in config
    config.my_key = 3
    assert config.to_dict()["my_key"] == 3
    del config.my_key
    assert not hasattr(config, "my_key")


def test_unknown_keys_do_not_share_their_values_with_the_caller():
    given = {"a": [1]}
    config = SeedOssConfig(quantization_config=given)
    given["a"].append(2)
    config.to_dict()["quantization_config"]["a"].append(3)
    assert config.quantization_config == {"a": [1]}


def test_a_key_cannot_hide_a_method():
    with pytest.warns(UserWarning, match="to_dict"):
        config = SeedOssConfig.from_dict({"to_dict": 1, "validate": 2, "num_parameters": 3, "FIELDS": 4})
    config.validate()
    assert config.to_dict()["to_dict"] == 1
    assert config.num_parameters() == 28_921_040_896


def test_private_keys_and_auto_map_are_dropped():
    config = SeedOssConfig.from_dict(
        {
            "_name_or_path": "x",
            "_attn_implementation": "evil/kernel",
            "_extra": {},
            "__class__": 1,
            "auto_map": {"a": "b"},
        }
    )
    assert config == SeedOssConfig()
    assert config.name_or_path == ""


def test_what_transformers_writes_is_known():
    four = {"max_length": 20, "temperature": 1.0, "torchscript": False, "pruned_heads": {}, "is_decoder": False}
    five = {"transformers_version": "5.23.0", "chunk_size_feed_forward": 0, "is_encoder_decoder": False}
    config = SeedOssConfig(**four, **five)
    assert not hasattr(config, "temperature")
    assert config.transformers_version == "5.23.0"
    assert config.to_diff_dict()["torchscript"] is False


def test_token_ids_outside_the_vocabulary_are_named():
    with pytest.warns(UserWarning, match="eos_token_id is 99, outside the vocabulary of 50"):
        SeedOssConfig(vocab_size=50, eos_token_id=[3, 99])


def test_absent_special_tokens():
    config = SeedOssConfig(pad_token_id=None, bos_token_id=None, eos_token_id=None)
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (None, None, None)


def test_copies_are_independent():
    config = SeedOssConfig(rope_scaling={"rope_type": "linear", "factor": 2.0}, classifier_dropout=0.1)
    for other in (copy.deepcopy(config), pickle.loads(pickle.dumps(config)), config.copy()):  # noqa: S301
        assert other == config
        other.rope_parameters["factor"] = 4.0
        other.id2label[0] = "x"
        assert other != config
        assert (config.rope_parameters["factor"], config.id2label[0]) == (2.0, "LABEL_0")


def test_defaults_are_not_shared_between_configs():
    SeedOssConfig().id2label[0] = "changed"
    assert SeedOssConfig().id2label[0] == "LABEL_0"


def test_attribute_errors_name_the_attribute():
    with pytest.raises(AttributeError, match="no attribute 'sliding_window'"):
        _ = SeedOssConfig().sliding_window
    with pytest.raises(AttributeError, match="hidden_size cannot be deleted"):
        del SeedOssConfig().hidden_size


def test_positional_arguments_are_refused():
    with pytest.raises(TypeError):
        SeedOssConfig(5)  # type: ignore[call-arg]


def test_a_plain_construction_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SeedOssConfig.seed_oss_36b()


def test_printing_shows_the_file():
    assert repr(SeedOssConfig()).startswith("SeedOssConfig {\n")
    assert str(SeedOssConfig()) == repr(SeedOssConfig())


def test_peft_and_others_ask_for_the_text_config():
    config = SeedOssConfig()
    assert config.get_text_config(decoder=True) is config
    assert config.model_type == "seed_oss"


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"eos_token_id": list(range(2**14 + 1))}, "eos_token_id has 16385 items; the limit is 16384"),
        ({f"key_{index}": 1 for index in range(2**14 + 1)}, "has 16385 keys; the limit is 16384"),
        ({"label2id": {f"name {index}": index for index in range(2**16 + 1)}}, "at most 65536 label names"),
    ],
)
def test_long_lists_are_refused_at_once(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        SeedOssConfig.from_dict(fields)
