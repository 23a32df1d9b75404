"""Another basis: the same function, none of the old numbers."""

import pytest
import torch

import seed_oss
from seed_oss.errors import InputError
from seed_oss.quant.rebase import random_rotation, rebase_
from tests.factory import random_ids, tiny_model


@pytest.mark.parametrize("biases", [True, False])
def test_the_function_stays(biases: bool) -> None:
    model = tiny_model(
        seed_oss.SeedOssForCausalLM, attention_bias=biases, attention_out_bias=biases, mlp_bias=biases
    ).double()
    ids = random_ids(2, 24)
    before, weights = model(ids).logits, {name: value.clone() for name, value in model.state_dict().items()}
    rebase_(model, seed=3)
    torch.testing.assert_close(model(ids).logits, before, atol=1e-10, rtol=1e-10)
    same = [name for name, value in model.state_dict().items() if torch.equal(value, weights[name])]
    assert all(name.endswith("bias") for name in same)
    assert all((value == 1).all() for name, value in model.state_dict().items() if name.endswith("norm.weight"))


def test_rotations_are_seeded_and_orthogonal() -> None:
    rotation = random_rotation(32, 0)
    torch.testing.assert_close(rotation @ rotation.t(), torch.eye(32, dtype=torch.float64), atol=1e-12, rtol=0)
    assert torch.equal(rotation, random_rotation(32, 0))
    assert not torch.equal(rotation, random_rotation(32, 1))


def test_a_tied_head_is_refused() -> None:
    with pytest.raises(InputError, match="untie it first"):
        rebase_(tiny_model(seed_oss.SeedOssForCausalLM, tie_word_embeddings=True))
