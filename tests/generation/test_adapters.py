"""peft adapters under generate, the same weights on our model and on the oracle's."""

from typing import Any

import peft
import pytest
import torch

from seed_oss import DynamicCache
from seed_oss.errors import InputError
from tests.factory import random_ids
from tests.generation.helpers import left_padded, models, quietly

ADAPTERS: dict[str, Any] = {
    "lora": lambda: peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj", "down_proj"]),
    "prompt tuning": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    "p-tuning": lambda: peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=5, encoder_hidden_size=16),
    "prefix tuning": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
}
IDS = random_ids(2, 9)


def _adapted(model: Any, adapter: str) -> Any:
    adapted = quietly(peft.get_peft_model, model, ADAPTERS[adapter]()).eval()
    generator = torch.Generator().manual_seed(5)
    for _, parameter in sorted(adapted.named_parameters()):
        if parameter.requires_grad:
            parameter.data.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return adapted


@pytest.fixture(scope="module", params=ADAPTERS)
def both(request: pytest.FixtureRequest) -> list[Any]:
    return [_adapted(model, request.param) for model in models()]


@pytest.mark.parametrize(
    "arguments",
    [
        {"input_ids": IDS},
        left_padded(9, 4),
        {"input_ids": IDS, "do_sample": True, "num_return_sequences": 2},
        {"input_ids": IDS, "do_sample": True, "top_k": 5, "repetition_penalty": 1.3},
    ],
    ids=["plain", "padded", "several sequences", "sampling"],
)
def test_same_ids_as_the_oracle(both: list[Any], arguments: dict[str, Any]) -> None:
    results = []
    for model in both:
        torch.manual_seed(1)
        results.append(quietly(model.generate, **arguments, max_new_tokens=10))
    assert torch.equal(*results)
    base = both[0].get_base_model()
    if "do_sample" not in arguments and both[0].active_peft_config.is_prompt_learning:
        assert not torch.equal(quietly(base.generate, **arguments, max_new_tokens=10), results[0])


def test_virtual_tokens_need_a_cache_of_their_own() -> None:
    model = _adapted(models()[0], "prompt tuning")
    for refused in ({"past_key_values": DynamicCache()}, {"use_cache": False}, {"cache_implementation": "static"}):
        with pytest.raises(InputError, match="an adapter puts virtual tokens before the prompt"):
            model.generate(input_ids=IDS, max_new_tokens=3, **refused)
