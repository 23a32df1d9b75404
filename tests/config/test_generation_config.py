"""GenerationConfig as a Python object."""

import copy
import pickle

import pytest

from seed_oss import GenerationConfig, SeedOssConfig
from seed_oss.config.unimplemented import UNIMPLEMENTED
from seed_oss.errors import ConfigError


def test_defaults():
    config = GenerationConfig()
    assert (config.max_length, config.max_new_tokens, config.min_length, config.min_new_tokens) == (20, None, 0, None)
    assert (config.do_sample, config.num_beams, config.temperature, config.top_k, config.top_p) == (
        False,
        1,
        1.0,
        50,
        1.0,
    )
    assert (config.min_p, config.repetition_penalty, config.num_return_sequences) == (None, 1.0, 1)
    assert (config.eos_token_id, config.pad_token_id, config.bos_token_id, config.seed) == (None, None, None, None)
    assert config.use_cache is True
    assert config.to_diff_dict() == {}


WRONG = [
    ("max_length", 0),
    ("max_new_tokens", 0),
    ("max_new_tokens", 1.5),
    ("min_new_tokens", -1),
    ("max_time", 0),
    ("stop_strings", ""),
    ("stop_strings", ["a", 3]),
    ("do_sample", 1),
    ("num_beams", 0),
    ("use_cache", "no"),
    ("cache_implementation", "offloaded"),
    ("prefill_chunk_size", 0),
    ("temperature", -1),
    ("temperature", float("inf")),
    ("temperature", "hot"),
    ("top_k", -1),
    ("top_k", 5.0),
    ("top_p", 1.01),
    ("top_p", -0.1),
    ("min_p", 2),
    ("repetition_penalty", 0),
    ("seed", -1),
    ("seed", 2**64),
    ("seed", True),
    ("num_return_sequences", 0),
    ("output_scores", None.__class__),
    ("pad_token_id", -1),
    ("eos_token_id", [2, None]),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_wrong_value_names_field_value_and_allowed_range(field: str, value: object):
    for attempt in (lambda: GenerationConfig(**{field: value}), lambda: GenerationConfig().update(**{field: value})):
        with pytest.raises(ConfigError, match=rf"{field}.* is .*; it must be "):
            attempt()


def test_none_leaves_a_field_open():
    config = GenerationConfig(top_k=None, max_length=None, temperature=0.5)
    assert (config.top_k, config.max_length) == (50, 20)
    assert not config.is_set("top_k")
    assert config.is_set("temperature")
    config.temperature = None
    assert not config.is_set("temperature")
    assert config.temperature == 1.0


def test_update_returns_what_is_no_field():
    config = GenerationConfig()
    unused = config.update(max_new_tokens=3, attention_mask="m", num_beams=2, penalty_alpha=0.6)
    assert unused == {"attention_mask": "m"}
    assert (config.max_new_tokens, config.num_beams, config.penalty_alpha) == (3, 2, 0.6)


@pytest.mark.filterwarnings("ignore:generation config has keys:UserWarning")
def test_fill_from_takes_what_is_open():
    mine = GenerationConfig(temperature=0.5)
    mine.fill_from(GenerationConfig(temperature=1.1, top_p=0.9, eos_token_id=[2, 3], custom=1))
    assert (mine.temperature, mine.top_p, mine.eos_token_id, mine.custom) == (0.5, 0.9, [2, 3], 1)
    assert not mine.is_set("top_k")


def test_a_value_equal_to_the_default_counts_as_set():
    mine = GenerationConfig(temperature=1.0)
    mine.fill_from(GenerationConfig(temperature=1.1))
    assert mine.temperature == 1.0


@pytest.mark.parametrize("name", UNIMPLEMENTED)
def test_what_is_not_implemented_is_refused_when_used(name: str):
    value = 0.75
    config = GenerationConfig(**{name: value})
    assert config.to_diff_dict() == {name: value}
    with pytest.raises(ConfigError, match=f"{name} is 0.75, which this release does not implement; "):
        config.validate()
    for neutral in (None, *UNIMPLEMENTED[name].neutral):
        GenerationConfig(**{name: neutral}).validate()


def test_fields_that_are_not_implemented_answer_none():
    assert GenerationConfig().num_beam_groups is None
    with pytest.raises(AttributeError, match="no attribute 'not_a_field'"):
        _ = GenerationConfig().not_a_field


def test_beams_give_as_many_results_as_there_are():
    with pytest.raises(ConfigError, match="num_return_sequences is 5; it must be at most num_beams, which is 4"):
        GenerationConfig(num_beams=4, num_return_sequences=5).validate()
    GenerationConfig(num_beams=4, num_return_sequences=4, early_stopping="never").validate()
    with pytest.raises(ConfigError, match="early_stopping is 1; it must be true, false or 'never'"):
        GenerationConfig(early_stopping=1)


def test_several_results_need_sampling():
    with pytest.raises(ConfigError, match="num_return_sequences is 2; it must be 1 unless do_sample"):
        GenerationConfig(num_return_sequences=2).validate()
    GenerationConfig(num_return_sequences=2, do_sample=True).validate()


def test_from_model_config():
    config = GenerationConfig.from_model_config(SeedOssConfig(eos_token_id=[2, 5]))
    assert config.to_diff_dict() == {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": [2, 5]}
    config = GenerationConfig.from_model_config(SeedOssConfig(use_cache=False, output_attentions=True))
    assert (config.use_cache, config.output_attentions, config.return_dict_in_generate) == (False, True, True)


@pytest.mark.filterwarnings("ignore:generation config has keys:UserWarning")
def test_copies_are_independent():
    config = GenerationConfig(eos_token_id=[1], custom={"a": 1})
    for other in (config.copy(), copy.deepcopy(config), pickle.loads(pickle.dumps(config))):  # noqa: S301
        assert other == config
        other.eos_token_id.append(2)
        other.custom["a"] = 2
        assert (config.eos_token_id, config.custom) == ([1], {"a": 1})


def test_private_keys_are_dropped():
    assert GenerationConfig(_from_model_config=True, _commit_hash="x").to_diff_dict() == {}


def test_a_misspelt_field_is_named() -> None:
    with pytest.warns(UserWarning, match=r"does not know: 'temprature'\. .*'temprature': did you mean temperature\?"):
        config = GenerationConfig(temprature=1)
    assert config.to_diff_dict() == {"temprature": 1}
    with pytest.warns(UserWarning, match="change nothing here$"):
        GenerationConfig(shrubbery=1)


def test_keys_of_the_reference_are_kept_without_a_word() -> None:
    config = GenerationConfig(num_assistant_tokens_schedule="constant", decoder_start_token_id=3, dola_layers=None)
    assert config.to_diff_dict()["decoder_start_token_id"] == 3
