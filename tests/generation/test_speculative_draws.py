"""Guesses leave the distribution as it is: single rows, in which they are often right, drawn many times."""

from itertools import product
from typing import Any

import pytest
import torch

from seed_oss.generation import generate
from tests.generation.budget_runs import MarkovModel

SIZE, NUM_NEW, NUM_DRAWS = 3, 4, 700
PROMPT = torch.tensor([[0, 1, 2, 1, 0, 2]])
GUESSES: dict[str, Any] = {
    "prompt lookup": lambda: {"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 1},
    "draft model": lambda: {
        "assistant_model": MarkovModel(3, {}, other=0.7, size=SIZE),
        "num_assistant_tokens": 3,
        "assistant_confidence_threshold": 0.0,
    },
}


def exact(model: MarkovModel, temperature: float) -> dict[tuple[int, ...], float]:
    """The probability of each text of NUM_NEW tokens."""
    probs = (model.table / temperature).double().softmax(-1)
    found: dict[tuple[int, ...], float] = {}
    for text in product(range(SIZE), repeat=NUM_NEW):
        found[text] = 1.0
        for place, (before, token) in enumerate(zip((int(PROMPT[0, -1]), *text), text, strict=False)):
            found[text] *= float(probs[(31 * before + 7 * (PROMPT.shape[1] - 1 + place)) % 499, token])
    return found


@pytest.mark.parametrize("guesses", GUESSES)
def test_the_distribution_is_kept(guesses: str) -> None:
    """Chi-square against the exact probabilities, rare texts together; fixed draws, far from the border."""
    model = MarkovModel(3, {}, size=SIZE)
    model.generation_config.eos_token_id = None
    counts = dict.fromkeys(product(range(SIZE), repeat=NUM_NEW), 0)
    how = {"do_sample": True, "temperature": 2.0, "top_k": 0, "max_new_tokens": NUM_NEW, **GUESSES[guesses]()}
    torch.manual_seed(0)
    for _ in range(NUM_DRAWS):
        ids = generate(model, PROMPT, attention_mask=torch.ones_like(PROMPT), **how)
        counts[tuple(ids[0, PROMPT.shape[1] :].tolist())] += 1  # type: ignore[index]
    assert model.num_forwards < 0.9 * NUM_NEW * NUM_DRAWS  # many a guess was right
    expected = {text: NUM_DRAWS * prob for text, prob in exact(model, 2.0).items()}
    often = [text for text, number in expected.items() if number >= 5]
    rest = NUM_DRAWS - sum(expected[text] for text in often), NUM_DRAWS - sum(counts[text] for text in often)
    chi_square = sum((counts[text] - expected[text]) ** 2 / expected[text] for text in often)
    chi_square += (rest[1] - rest[0]) ** 2 / rest[0]
    assert len(often) > 15
    assert chi_square < len(often) + 3 * (2 * len(often)) ** 0.5
