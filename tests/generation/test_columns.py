"""A growing tensor beside torch.cat."""

import pytest
import torch

from seed_oss.generation import generate
from seed_oss.generation.columns import Columns
from tests.generation.helpers import ScriptedModel


@pytest.mark.parametrize(("rows", "start", "more"), [(1, 0, 3), (2, 5, 256), (3, 1, 257), (2, 300, 1000)])
def test_equal_to_concatenation(rows: int, start: int, more: int) -> None:
    expected = torch.arange(rows * start).reshape(rows, start)
    given = expected.clone()
    columns = Columns(given, more)
    early = columns.view()
    for step in range(more):
        column = torch.arange(rows) + step
        columns.append(column)
        expected = torch.cat((expected, column[:, None]), dim=1)
        assert len(columns) == expected.shape[1]
    assert torch.equal(columns.view(), expected)
    assert torch.equal(early, given)


def test_memory_follows_what_is_there_not_what_might_come() -> None:
    columns = Columns(torch.zeros(1, 4, dtype=torch.int64), 10**9)
    assert columns.view().untyped_storage().nbytes() < 10_000


def test_a_long_generation_with_padding() -> None:
    model = ScriptedModel([[9]], max_position_embeddings=1000)
    ids, mask = torch.tensor([[3, 4], [1, 5]]), torch.tensor([[1, 1], [0, 1]])
    result = generate(model, ids, attention_mask=mask, max_new_tokens=600)
    assert isinstance(result, torch.Tensor)
    assert result.tolist() == [[3, 4] + [9] * 600, [1, 5] + [9] * 600]
    assert model.calls[-1]["attention_mask"].int().tolist() == [[1] * 601, [0] + [1] * 600]
    assert model.calls[-1]["position_ids"].tolist() == [[600], [599]]
