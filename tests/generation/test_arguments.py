"""What generate does not take, and how it says so."""

from typing import Any

import pytest
import torch

from seed_oss import GenerationConfig
from seed_oss.errors import ConfigError, InputError
from seed_oss.generation import TemperatureLogitsWarper, generate
from tests.factory import VOCAB_SIZE, random_ids
from tests.generation.helpers import ScriptedModel, left_padded, models, quietly

IDS = torch.tensor([[3, 4], [5, 6]])


def _call(*args: Any, **kwargs: Any) -> torch.Tensor:
    result = generate(ScriptedModel([[9]], VOCAB_SIZE), *args, **{"max_new_tokens": 3, **kwargs})
    assert isinstance(result, torch.Tensor)
    return result


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("max_new_token", "did you mean max_new_tokens"),
        ("temprature", "did you mean temperature"),
        ("attention_masks", "did you mean attention_mask"),
        ("stop_string", "did you mean stop_strings"),
        ("stop", "did you mean stop_strings"),
        ("max_tokens", "did you mean max_new_tokens"),
        ("n", "did you mean num_return_sequences"),
        ("thinking_budget", "given to model.chat or apply_chat_template, as thinking_budget="),
        ("enable_thinking", "given to model.chat or apply_chat_template, as thinking_budget="),
        ("logit_processor", "did you mean logits_processor"),
        ("shrubbery", "remove it"),
        ("labels", "remove it"),
    ],
)
def test_unknown_names(name: str, hint: str) -> None:
    with pytest.raises(InputError, match=f"'{name}'.*{hint}"):
        _call(IDS, **{name: 1})


def test_a_temperature_of_zero_is_greedy_and_nothing_else() -> None:
    assert torch.equal(_call(IDS, do_sample=False, temperature=0.0), _call(IDS, do_sample=False))
    with pytest.raises(InputError, match="temperature is 0; for greedy decoding set do_sample=False"):
        _call(IDS, do_sample=True, temperature=0.0)


def test_all_unknown_names_at_once() -> None:
    with pytest.raises(
        InputError, match=r"model_kwargs are not used .*'max_token': did you mean .*'shrubbery': remove"
    ):
        _call(IDS, max_token=3, shrubbery=1)


@pytest.mark.parametrize(
    "name",
    [
        "assistant_tokenizer",
        "prefix_allowed_tokens_fn",
        "negative_prompt_ids",
        "custom_generate",
        "trust_remote_code",
        "synced_gpus",
    ],
)
def test_names_of_the_reference_that_are_not_available(name: str) -> None:
    with pytest.raises(InputError, match=f"generate\\(\\) got {name}"):
        _call(IDS, **{name: True})
    _call(IDS, **{name: None})


@pytest.mark.parametrize(
    "setting",
    [
        {"num_beams": 0},
        {"typical_p": 1.9},
        {"no_repeat_ngram_size": -2},
        {"num_beam_groups": 2},
        {"prompt_lookup_num_tokens": 0},
        {"cache_implementation": "offloaded"},
        {"temperature": -1.0, "do_sample": True},
        {"num_return_sequences": 2},
        {"seed": -1},
    ],
)
def test_settings_are_checked_by_the_config(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        _call(IDS, **setting)


def test_harmless_arguments() -> None:
    expected = _call(IDS)
    assert torch.equal(
        _call(IDS, token_type_ids=torch.zeros(2, 2), trust_remote_code=False, synced_gpus=False), expected
    )


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([[3, 4]], r"input_ids is a list; it must be an integer tensor \[batch, length\]"),
        ({"input_ids": IDS}, r"call generate\(\*\*inputs\)"),
        (torch.tensor([3, 4]), r"torch.int64 \[2\]"),
        (torch.tensor([[3.0]]), r"torch.float32 \[1, 1\]"),
        (torch.zeros(0, 3, dtype=torch.int64), "no rows"),
        (torch.zeros(2, 0, dtype=torch.int64), "the prompt has length 0"),
        (torch.tensor([[3, VOCAB_SIZE]]), f"contain {VOCAB_SIZE}; allowed are 0 to {VOCAB_SIZE - 1}"),
        (torch.tensor([[3, -2]]), "contain -2; allowed are 0"),
    ],
)
def test_prompts_that_are_none(inputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _call(inputs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_ids": IDS}, "inputs and input_ids are both given"),
        ({"attention_mask": torch.ones(2, 3)}, "attention_mask has 3 columns; it must have 2"),
        ({"attention_mask": torch.ones(1, 2)}, r"attention_mask is torch.float32 \[1, 2\]"),
        ({"attention_mask": torch.ones(2, 1, 2, 2)}, r"attention_mask is torch.float32 \[2, 1, 2, 2\]"),
        ({"attention_mask": [[1, 1], [1, 1]]}, "attention_mask is list"),
        ({"attention_mask": torch.tensor([[1, 1], [0, 0]])}, "row 1 of the prompt is padding only"),
        ({"position_ids": torch.zeros(2, 1, dtype=torch.int64)}, r"position_ids is torch.int64 \[2, 1\]"),
        ({"position_ids": torch.zeros(2, 2)}, r"position_ids is torch.float32 \[2, 2\]"),
        ({"inputs_embeds": torch.zeros(3, 2, 32)}, "input_ids has 2 rows and inputs_embeds 3"),
        ({"inputs_embeds": torch.zeros(2, 2, 31)}, r"inputs_embeds is torch.float32 \[2, 2, 31\].*hidden_size=32"),
        ({"inputs_embeds": torch.zeros(2, 0, 32)}, "at least one row and one token"),
        ({"past_key_values": 3}, "past_key_values is a int"),
        ({"logits_to_keep": -1}, "logits_to_keep is -1"),
        ({"generation_config": {"max_length": 3}}, "generation_config is a dict"),
        ({"logits_processor": TemperatureLogitsWarper(2.0)}, "must be a list"),
        ({"generator": 3}, "generator is a int"),
        ({"generator": torch.Generator(), "seed": 3, "do_sample": True}, "seed and generator are both given"),
    ],
)
def test_arguments_that_do_not_fit(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        _call(IDS, **arguments)


def test_a_prompt_of_pads_only_is_refused() -> None:
    with pytest.raises(InputError, match="row 0 of the prompt is padding only"):
        _call(torch.tensor([[1, 1, 1]]))


def test_no_prompt_and_no_bos() -> None:
    with pytest.raises(InputError, match="bos_token_id is not set"):
        _call()
    assert _call(bos_token_id=5).tolist() == [[5, 9, 9, 9]]


def test_other_integers_are_taken() -> None:
    assert _call(IDS.int()).dtype == torch.int64


class TestWhichSettingCounts:
    def _length(self, *args: Any, **kwargs: Any) -> int:
        model = ScriptedModel([[9]])
        model.generation_config.max_new_tokens = 5
        result = generate(model, IDS, *args, **kwargs)
        assert isinstance(result, torch.Tensor)
        return result.shape[1] - 2

    def test_in_turn(self) -> None:
        assert self._length() == 5
        assert self._length(GenerationConfig(max_new_tokens=4)) == 4
        assert self._length(GenerationConfig(max_new_tokens=4), max_new_tokens=3) == 3

    def test_what_the_given_config_leaves_open_comes_from_the_model(self) -> None:
        assert self._length(GenerationConfig(eos_token_id=9)) == 1
        assert self._length(GenerationConfig(do_sample=True)) == 5

    def test_configs_are_not_changed(self) -> None:
        model, given = ScriptedModel([[9]]), GenerationConfig(max_new_tokens=4)
        before = model.generation_config.to_dict()
        generate(model, IDS, given, temperature=0.5, do_sample=True)
        assert given == GenerationConfig(max_new_tokens=4)
        assert model.generation_config.to_dict() == before


class TestWarnings:
    def test_right_padding(self) -> None:
        mask = torch.tensor([[1, 1], [1, 0]])
        with pytest.warns(UserWarning, match="padded on the right"):
            _call(IDS, attention_mask=mask)

    def test_pad_is_eos(self) -> None:
        with pytest.warns(UserWarning, match="pad_token_id 2 is an end of sequence as well"):
            _call(IDS, pad_token_id=2)
        _call(IDS, pad_token_id=2, attention_mask=torch.ones(2, 2))
        _call(IDS[:1], pad_token_id=2)


class TestNothingTooMuch:
    """What reaches the model at each step."""

    def _calls(self, **arguments: Any) -> list[dict[str, Any]]:
        model = ScriptedModel([[9]], VOCAB_SIZE)
        generate(model, **{"max_new_tokens": 4, **arguments})
        return model.calls

    def test_no_mask_and_no_positions_without_padding(self) -> None:
        for call in self._calls(input_ids=IDS, attention_mask=torch.ones(2, 2)):
            assert set(call) == {"input_ids", "past_key_values", "use_cache", "logits_to_keep", "return_dict"}
            assert call["logits_to_keep"] == 1

    def test_mask_and_positions_with_padding(self) -> None:
        calls = self._calls(**left_padded(4, 2))
        assert calls[0]["position_ids"].tolist() == [[0, 1, 2, 3], [0, 0, 0, 1]]
        assert calls[2]["position_ids"].tolist() == [[5], [3]]
        assert calls[2]["attention_mask"].int().tolist() == [[1] * 6, [0, 0, 1, 1, 1, 1]]
        assert calls[2]["input_ids"].shape == (2, 1)

    def test_everything_again_without_cache(self) -> None:
        calls = self._calls(**left_padded(4, 2), use_cache=False)
        assert calls[2]["input_ids"].shape == (2, 6)
        assert calls[2]["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 2, 3]]
        assert calls[2]["past_key_values"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"logits_processor": [lambda ids, scores: None]},
            r"processors returned None; they must return scores \[2, 160",
        ),
        ({"logits_processor": [lambda ids, scores: scores[:1]]}, r"processors returned \[1, 160\]"),
        ({"stopping_criteria": [lambda ids, scores: None]}, "criterion function returned None"),
        ({"stopping_criteria": [lambda ids, scores: torch.zeros(3)]}, r"function returned \[3\]; it must .* \[2\]"),
    ],
)
def test_plugged_in_parts_that_return_something_else(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        _call(IDS, **arguments)


def test_a_model_that_drops_its_cache_while_training() -> None:
    model, _ = models()
    model.gradient_checkpointing_enable()
    model.train()
    with pytest.raises(InputError, match="did not use its cache"):
        quietly(model.generate, random_ids(1, 5), max_new_tokens=4)
    model.generate(random_ids(1, 5), max_new_tokens=4, use_cache=False)
    expected = model.eval().generate(random_ids(1, 5), max_new_tokens=4)
    assert expected.shape == (1, 9)


def test_the_method_of_the_model() -> None:
    model, _ = models()
    ids = random_ids(1, 5)
    assert torch.equal(model.generate(ids, max_new_tokens=4), generate(model, ids, max_new_tokens=4))  # type: ignore[arg-type]
    assert model.generate(ids, GenerationConfig(max_new_tokens=2)).shape == (1, 7)


@pytest.mark.parametrize("streamer", [3, "x", type("Half", (), {"put": print})()], ids=["int", "str", "half"])
def test_a_streamer_that_cannot_stream_is_refused_before_the_first_token(streamer: Any) -> None:
    model = ScriptedModel([[9]], VOCAB_SIZE)
    with pytest.raises(InputError, match=r"streamer is a .* without .*end; give a TextStreamer"):
        generate(model, IDS, streamer=streamer, max_new_tokens=2)


@pytest.mark.parametrize(
    "prompt",
    [
        {"input_ids": IDS.to(torch.uint16)},
        {"input_ids": IDS.to(torch.uint64)},
        {"input_ids": IDS * 1j},
        {"input_ids": IDS.to_sparse()},
        {"input_ids": IDS.to("meta")},
        {"input_ids": IDS, "attention_mask": torch.ones(2, 2, device="meta")},
        {"input_ids": IDS, "attention_mask": torch.ones(2, 2) * 1j},
        {"input_ids": IDS, "attention_mask": torch.ones(2, 2).to_sparse()},
        {"inputs_embeds": torch.zeros(2, 2, 32, device="meta")},
        {"input_ids": IDS, "position_ids": torch.ones(2, 2) * 1j},
        {"input_ids": IDS, "position_ids": torch.ones(2, 2, device="meta").long()},
    ],
    ids=lambda prompt: "-".join(f"{name}.{value.dtype}.{value.layout}" for name, value in prompt.items()),
)
def test_tensors_that_hold_no_plain_numbers(prompt: dict[str, Any]) -> None:
    name = list(prompt)[-1]
    model, _ = models()
    with pytest.raises(InputError, match=f"{name} is .*must be"), torch.no_grad():
        generate(model, **prompt, max_new_tokens=2)
