"""What the classes do besides computing: initialise, tie, resize, checkpoint, count, and refuse bad input."""

from typing import Any

import pytest
import torch

import seed_oss
from seed_oss import SeedOssForCausalLM, SeedOssForSequenceClassification, SeedOssModel
from seed_oss.errors import ConfigError, InputError
from tests.factory import VOCAB_SIZE, random_ids, tiny_config, tiny_model


def test_initialisation() -> None:
    torch.manual_seed(0)
    model = SeedOssForCausalLM(tiny_config(hidden_size=128, initializer_range=0.05))
    layer = model.model.layers[0]
    for weight in (layer.self_attn.q_proj.weight, layer.mlp.down_proj.weight, model.lm_head.weight):
        assert abs(weight.std().item() - 0.05) < 0.005
        assert abs(weight.mean().item()) < 0.005
    assert layer.self_attn.q_proj.bias.abs().max() == 0
    assert (layer.input_layernorm.weight == 1).all()
    assert model.model.embed_tokens.weight[model.config.pad_token_id].abs().max() == 0


def test_the_documented_default_is_built_on_meta() -> None:
    with torch.device("meta"):
        model = SeedOssModel(seed_oss.SeedOssConfig())
    assert model.num_parameters() == 28_921_040_896 - 155_136 * 4096
    assert model.config.hidden_size == 4096


def test_released_shape() -> None:
    with torch.device("meta"):
        model = SeedOssForCausalLM(seed_oss.SeedOssConfig.seed_oss_36b())
    assert model.num_parameters() == 36_151_104_512
    assert len(model.state_dict()) == 771
    assert model.model.layers[0].self_attn.q_proj.weight.shape == (10240, 5120)
    assert model.num_parameters(exclude_embeddings=True) == 36_151_104_512 - 155_136 * 5120


@pytest.mark.parametrize("tied", [True, False])
def test_tying(tied: bool) -> None:
    model = tiny_model(SeedOssForCausalLM, tie_word_embeddings=tied)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert model.get_output_embeddings() is model.lm_head
    new = torch.nn.Embedding(VOCAB_SIZE, 32)
    model.set_input_embeddings(new)
    model.tie_weights()
    assert model.get_input_embeddings() is new
    assert (model.lm_head.weight is new.weight) == tied


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("size", "multiple", "expected"), [(170, None, 170), (100, None, 100), (None, 64, 192)])
@pytest.mark.parametrize("around_mean", [True, False])
def test_resizing(size: int | None, multiple: int | None, expected: int, tied: bool, around_mean: bool) -> None:
    model = tiny_model(SeedOssForCausalLM, tie_word_embeddings=tied)
    old, old_head = model.get_input_embeddings().weight.clone(), model.lm_head.weight.clone()
    ids = random_ids(1, 5, high=90)
    with torch.no_grad():
        before = model(ids).logits
        resized = model.resize_token_embeddings(size, pad_to_multiple_of=multiple, mean_resizing=around_mean)
        after = model(ids).logits
    assert resized is model.get_input_embeddings()
    assert (
        model.config.vocab_size == model.vocab_size == resized.num_embeddings == model.lm_head.out_features == expected
    )
    assert (model.lm_head.weight is resized.weight) == tied
    rows = min(expected, VOCAB_SIZE)
    torch.testing.assert_close(resized.weight[:rows], old[:rows], atol=0, rtol=0)
    torch.testing.assert_close(model.lm_head.weight[:rows], old_head[:rows], atol=0, rtol=0)
    torch.testing.assert_close(after[..., :rows], before[..., :rows], atol=1e-5, rtol=1e-5)
    if around_mean and expected > VOCAB_SIZE:
        distance = (resized.weight[VOCAB_SIZE:] - old.mean(0)).abs().max()
        assert 0 < distance < 1e-3
    assert model.generate(ids, max_new_tokens=2).shape == (1, 7)


@pytest.mark.parametrize("bad", [0, -3, 2.5, True])
def test_resizing_to_nonsense(bad: Any) -> None:
    model = tiny_model(SeedOssForCausalLM)
    with pytest.raises(InputError, match="new_num_tokens"):
        model.resize_token_embeddings(bad)
    with pytest.raises(InputError, match="pad_to_multiple_of"):
        model.resize_token_embeddings(10, pad_to_multiple_of=bad)


@pytest.mark.parametrize("kwargs", [None, {"use_reentrant": False}, {"use_reentrant": True}], ids=str)
def test_gradient_checkpointing_changes_no_gradient(kwargs: dict[str, Any] | None) -> None:
    plain, checkpointed = (tiny_model(SeedOssForCausalLM).train() for _ in range(2))
    for model in (plain, checkpointed):
        model.config.use_cache = False
    checkpointed.gradient_checkpointing_enable(kwargs)
    checkpointed.enable_input_require_grads()
    assert checkpointed.is_gradient_checkpointing
    ids = random_ids(2, 6)
    for model in (plain, checkpointed):
        torch.manual_seed(3)  # dropouts
        model(ids, labels=ids).loss.backward()
    for (name, mine), expected in zip(checkpointed.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, expected.grad, atol=1e-6, rtol=1e-5, msg=name)
    checkpointed.gradient_checkpointing_disable()
    assert not checkpointed.is_gradient_checkpointing


def test_checkpointing_with_an_unknown_argument() -> None:
    model = tiny_model(SeedOssForCausalLM)
    with pytest.raises(InputError, match="gradient_checkpointing_kwargs has foo; allowed are use_reentrant"):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"foo": True})
    assert not model.is_gradient_checkpointing


def test_checkpointing_runs_each_layer_again() -> None:
    model = tiny_model(SeedOssForCausalLM).train()
    model.gradient_checkpointing_enable()
    calls: list[int] = []
    model.model.layers[0].self_attn.q_proj.register_forward_hook(lambda *_: calls.append(1))
    out = model(random_ids(1, 4), labels=random_ids(1, 4))
    assert out.past_key_values is None
    out.loss.backward()
    assert len(calls) == 2


def test_attention_can_be_switched_on_a_built_model() -> None:
    model = tiny_model(SeedOssForCausalLM)
    ids = random_ids(1, 4)
    with torch.no_grad():
        sdpa = model(ids).logits
        model.set_attn_implementation("eager")
        torch.testing.assert_close(model(ids).logits, sdpa, atol=1e-5, rtol=1e-5)
        assert len(model(ids, output_attentions=True).attentions) == 3
    with pytest.warns(UserWarning, match="flash_attention_2: using sdpa"):
        model.set_attn_implementation("flash_attention_2")
    with pytest.raises(InputError, match=r"'paged'; allowed: sdpa, eager"):
        model.set_attn_implementation("paged")


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_finished_mask_means_the_same_under_both_implementations(attn: str, dtype: torch.dtype) -> None:
    model, ids = tiny_model(SeedOssModel), random_ids(2, 4)
    model.set_attn_implementation(attn)
    mask = torch.ones(2, 1, 4, 4).tril().bool()
    if dtype != torch.bool:
        mask = torch.where(mask, 0.0, torch.finfo(torch.float32).min).to(dtype)
    with torch.no_grad():
        got, causal = model(ids, mask).last_hidden_state, model(ids).last_hidden_state
    torch.testing.assert_close(got, causal, atol=1e-5, rtol=1e-5, check_dtype=False)


def test_hidden_states_selected_by_the_config() -> None:
    model, ids = tiny_model(SeedOssForCausalLM, output_hidden_states=[0, -1]), random_ids(1, 4)
    states = model(ids).hidden_states
    assert [state is None for state in states] == [False, True, True, False]
    assert model.generation_config.output_hidden_states is True
    with pytest.raises(ConfigError, match=r"output_hidden_states is 'all'; it must be true, false, the index"):
        model.config.output_hidden_states = "all"
    with pytest.raises(ConfigError, match=r"output_hidden_states\[1\] is 0.5; it must be an integer"):
        model.config.output_hidden_states = [0, 0.5]


def test_prepare_inputs_for_generation() -> None:
    model = tiny_model(SeedOssForCausalLM)
    ids, mask = random_ids(2, 5), torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    with torch.no_grad():
        cache = model(ids[:, :4], mask[:, :4]).past_key_values
    inputs = model.prepare_inputs_for_generation(ids, past_key_values=cache, attention_mask=mask, use_cache=True)
    assert inputs["input_ids"].tolist() == ids[:, 4:].tolist()
    assert inputs["position_ids"].tolist() == [[4], [2]]
    assert model(**inputs).logits.shape == (2, 1, VOCAB_SIZE)


def test_lora_of_peft_trains_and_generates() -> None:
    import peft

    model = tiny_model(SeedOssForCausalLM)
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj", "lm_head"], r=2)
    )
    ids = random_ids(2, 6)
    adapted(input_ids=ids, labels=ids).loss.backward()
    trained = [name for name, parameter in adapted.named_parameters() if parameter.grad is not None]
    assert trained
    assert all("lora_" in name for name in trained)
    assert adapted.generate(input_ids=ids, max_new_tokens=3).shape == (2, 9)


BAD_CALLS: list[tuple[dict[str, Any], str]] = [
    ({}, "exactly one of input_ids or inputs_embeds; neither"),
    ({"input_ids": random_ids(1, 3), "inputs_embeds": torch.zeros(1, 3, 32)}, "both was given"),
    ({"input_ids": [[1, 2]]}, "input_ids is a list"),
    ({"input_ids": torch.zeros(1, 3)}, r"input_ids is torch.float32 \[1, 3\]"),
    ({"input_ids": torch.tensor([1, 2])}, r"input_ids is torch.int64 \[2\]"),
    ({"input_ids": torch.empty(1, 0, dtype=torch.long)}, "length 0"),
    ({"input_ids": torch.tensor([[1, VOCAB_SIZE]])}, f"input_ids contain {VOCAB_SIZE}; allowed are 0 to 159"),
    ({"input_ids": torch.tensor([[-1, 2]])}, "input_ids contain -1"),
    ({"inputs_embeds": torch.zeros(1, 3, 31)}, "hidden_size=32"),
    ({"input_ids": random_ids(2, 3), "attention_mask": torch.ones(2, 2)}, r"attention_mask is \[2, 2\]"),
    ({"input_ids": random_ids(2, 3), "attention_mask": torch.ones(3, 3)}, r"attention_mask is \[3, 3\]"),
    ({"input_ids": random_ids(2, 3), "attention_mask": torch.ones(2, 1, 3, 4)}, "4D mask"),
    ({"input_ids": random_ids(2, 3), "attention_mask": torch.ones(2, 1, 3, 3).long()}, "4D mask of torch.int64"),
    ({"input_ids": random_ids(2, 3), "attention_mask": [[1, 1, 1]]}, "attention_mask is a list"),
    ({"input_ids": random_ids(2, 3), "position_ids": torch.zeros(2, 4, dtype=torch.long)}, "position_ids"),
    ({"input_ids": random_ids(2, 3), "cache_position": torch.arange(4)}, r"cache_position is torch.int64 \[4\]"),
    ({"input_ids": random_ids(2, 3), "cache_position": torch.ones(3)}, r"cache_position is torch.float32 \[3\]"),
    ({"input_ids": random_ids(2, 3), "cache_position": "x"}, "cache_position is a str"),
    ({"input_ids": random_ids(2, 3), "cache_position": torch.arange(1, 4)}, "after 0 cached tokens it must be 0 to 2"),
    ({"input_ids": random_ids(2, 3), "labels": random_ids(2, 4)}, r"labels is \[2, 4\]"),
    ({"input_ids": random_ids(2, 3), "labels": torch.zeros(2, 3)}, "integers"),
    ({"input_ids": random_ids(2, 3), "labels": torch.full((2, 3), VOCAB_SIZE)}, "labels contain 160"),
    ({"input_ids": random_ids(2, 3), "labels": torch.full((2, 3), -1)}, "-100 to ignore"),
    ({"input_ids": random_ids(2, 3), "logits_to_keep": -1}, "logits_to_keep is -1"),
    ({"input_ids": random_ids(2, 3), "logits_to_keep": 1.5}, "logits_to_keep"),
    ({"input_ids": random_ids(2, 3), "labels": random_ids(2, 3), "logits_to_keep": 1}, "see logits_to_keep"),
    ({"inputs_embeds": torch.zeros(1, 3, 32, dtype=torch.long)}, r"inputs_embeds is torch.int64 \[1, 3, 32\]"),
    ({"inputs_embeds": [[[0.0] * 32]]}, "inputs_embeds is a list"),
    ({"input_ids": random_ids(2, 3).to_sparse()}, "input_ids is"),
    ({"input_ids": random_ids(2, 3), "attention_mask": torch.ones(2, 3) * 1j}, "attention_mask is .* torch.complex64"),
    ({"input_ids": random_ids(2, 3), "attention_mask": torch.ones(2, 3).to_sparse()}, "a torch.sparse_coo tensor"),
    ({"input_ids": random_ids(2, 3), "logits_to_keep": torch.tensor([0, 9])}, "position 9; the sequence has 3"),
    ({"input_ids": random_ids(2, 3), "logits_to_keep": torch.tensor([[0], [-4]])}, "position -4"),
    ({"input_ids": random_ids(2, 3), "logits_to_keep": torch.ones(2, 4).bool()}, r"torch.bool \[2, 4\]; it must be"),
    ({"input_ids": random_ids(2, 3), "logits_to_keep": torch.zeros(3, 1).long()}, r"torch.int64 \[3, 1\]"),
    ({"input_ids": random_ids(2, 3), "return_logits": "x"}, "return_logits is 'x'"),
    ({"input_ids": random_ids(2, 3), "atention_mask": torch.ones(2, 3)}, "does not take atention_mask"),
]


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_cache_position_continues_the_cache(kind: str) -> None:
    model, ids = tiny_model(SeedOssModel), random_ids(2, 5)
    cache = seed_oss.DynamicCache() if kind == "dynamic" else seed_oss.StaticCache(model.config, 8)
    model(ids[:, :3], past_key_values=cache, cache_position=torch.arange(3))
    with pytest.raises(InputError, match="after 3 cached tokens it must be 3 to 4"):
        model(ids[:, 3:], past_key_values=cache, cache_position=torch.arange(2))
    model(ids[:, 3:], past_key_values=cache, cache_position=torch.arange(3, 5, dtype=torch.int32))
    assert cache.get_seq_length() == 5


@pytest.mark.parametrize(("call", "message"), BAD_CALLS, ids=[message for _, message in BAD_CALLS])
def test_bad_calls_say_what_is_wrong(call: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny_model(SeedOssForCausalLM)(**call)


@pytest.mark.parametrize(
    ("num_labels", "problem", "labels", "message"),
    [
        (3, None, torch.tensor([0, 3]), "labels contain 3; allowed are 0 to 2"),
        (3, None, torch.tensor([0, 1, 2]), r"labels are \[3\]"),
        (3, "multi_label_classification", torch.ones(2, 3, dtype=torch.long), "needs floats"),
        (3, "multi_label_classification", torch.ones(2, 2), r"labels are \[2, 2\]"),
        (1, None, torch.ones(3), r"labels are \[3\]"),
    ],
)
def test_bad_class_labels(num_labels: int, problem: str | None, labels: torch.Tensor, message: str) -> None:
    model = tiny_model(SeedOssForSequenceClassification, num_labels=num_labels, problem_type=problem)
    with pytest.raises(InputError, match=message):
        model(random_ids(2, 4), labels=labels)


def test_classifying_a_batch_needs_a_pad_token() -> None:
    model = tiny_model(SeedOssForSequenceClassification, pad_token_id=None)
    with pytest.raises(InputError, match="pad_token_id"):
        model(random_ids(2, 4))
    assert model(random_ids(1, 4)).logits.shape == (1, 3)


def test_classifying_embeddings_warns_that_padding_is_unseen() -> None:
    model = tiny_model(SeedOssForSequenceClassification)
    with pytest.warns(UserWarning, match="last position"):
        model(inputs_embeds=torch.zeros(2, 4, 32))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_key_value_heads", 3, "a multiple of num_key_value_heads, which is 3"),
        ("head_dim", 7, "head_dim is 7; it must be even"),
        ("pad_token_id", 999, "pad_token_id is 999; it must be null or less than vocab_size"),
    ],
)
@pytest.mark.parametrize("cls", [SeedOssModel, SeedOssForCausalLM])
def test_a_config_changed_into_an_impossible_one(cls: type[Any], field: str, value: int, message: str) -> None:
    config = tiny_config()
    setattr(config, field, value)
    with pytest.raises(ConfigError, match=message):
        cls(config)


def test_unknown_activation() -> None:
    with pytest.raises(ConfigError, match="hidden_act is 'swooosh'; allowed: silu"):
        SeedOssModel(tiny_config(hidden_act="swooosh"))


def test_config_must_be_a_config() -> None:
    with pytest.raises(InputError, match="config is a dict"):
        SeedOssModel({"hidden_size": 32})  # type: ignore[arg-type]


def test_to_dtype_and_back_and_train_and_eval() -> None:
    model = tiny_model(SeedOssForCausalLM)
    ids = random_ids(1, 6)
    with torch.no_grad():
        before = model(ids).logits
        assert model.to(torch.bfloat16).dtype == torch.bfloat16
        assert model(ids).logits.dtype == torch.bfloat16
        model.to(torch.float64).train().eval()
        double = model(ids).logits
    torch.testing.assert_close(double.float(), before, atol=0.2, rtol=0.1)  # bf16 has rounded the weights
    assert model.device.type == "cpu"
