"""Budgets that hold, whatever a model wishes: random wishes, prompts, budgets and ways of decoding, all recounted."""

import random
from collections import Counter
from typing import Any

import pytest
import torch

from seed_oss.chat.budget import ThinkingBudget
from seed_oss.generation import generate
from seed_oss.generation.loop_guard import LoopGuard
from seed_oss.generation.thinking import ThinkingControl, ThinkingTokens
from tests.generation.budget_runs import (
    END_REFLECT,
    END_THINK,
    EOS,
    PAD,
    REFLECT,
    SIZE,
    SKIPPED,
    THINK,
    TOKENIZER,
    TOOL_CALL,
    Answer,
    MarkovModel,
    check,
    ids_of,
)
from tests.generation.helpers import models

TOKENS = ThinkingTokens.of(TOKENIZER)
TURN = [0, *ids_of("assistant\n")]
PROMPTS = {
    "absent": TURN,
    "open": [*TURN, THINK],
    "begun": [*TURN, THINK, *ids_of("So it is.")],
    "half-open block": [*TURN, THINK, REFLECT],
    "reflecting": [*TURN, THINK, *ids_of("So"), REFLECT, *ids_of("I have")],
    "half-said block": [*TURN, *SKIPPED[:7]],
    "closed": [*TURN, *SKIPPED],
    "earlier turn": [0, *ids_of("a"), THINK, *ids_of("b"), EOS, *TURN],
    "raw": ids_of("Once upon"),
}
WORDS = [*ids_of("the thinking budget is capital of France."), *ids_of(". ! \n"), *ids_of("日")]


def random_budget(rng: random.Random) -> ThinkingBudget:
    tokens = rng.choice([None, 0, 512, 512, rng.randint(1, 40), rng.randint(1, 40), rng.randint(40, 120)])
    return ThinkingBudget(tokens, rng.choice(["both", "hard", "hard", "soft"]))


def random_likes(rng: random.Random) -> dict[int, float]:
    """What a model likes to say; each case has another favourite."""
    likes = {token: rng.choice([-6.0, 0.0, 3.0, 5.0]) for token in (THINK, END_THINK, REFLECT, END_REFLECT, TOOL_CALL)}
    likes |= {EOS: rng.choice([-9.0, 0.0, 4.0, 12.0]), 0: rng.choice([-9.0, 3.0]), PAD: rng.choice([-9.0, 3.0])}
    likes |= {token: rng.choice([0.0, 3.0, 8.0]) for token in ids_of(" \n")}
    likes |= dict.fromkeys(WORDS, 2.5)
    return likes


def test_whatever_a_model_wishes() -> None:
    """The control alone, token by token."""
    rng = random.Random(0)
    seen: Counter[str] = Counter()
    for _ in range(1200):
        budget, max_new = random_budget(rng), rng.randint(1, 200)
        guard = rng.choice([None, None, LoopGuard(window=16, repeats=2, every=3, min_tokens=6)])
        control = ThinkingControl(TOKENS, budget, guard)
        prompt = list(rng.choice(list(PROMPTS.values())))
        prompt += control.prompt_suffix(prompt, max_new)
        likes = random_likes(rng)
        weights = [2.0 ** likes.get(token, -2.0) for token in range(SIZE)]
        some = rng.choices(range(SIZE), weights, k=rng.choice([1000, 1000, 4]))
        wishes = iter(some * (1000 // len(some)))
        state = control.start(prompt, max_new)
        answer = Answer(prompt, [], [], budget.limit, max_new)
        while len(answer.ids) < max_new and answer.ids[-1:] != [EOS]:
            directive = control.directive(state)
            if directive.stop is not None:
                answer.reason = directive.stop
                break
            token = directive.forced
            if token is None:
                token = next((one for one in wishes if one not in directive.banned), ids_of("x")[0])
            answer.ids.append(token)
            answer.forced.append(directive.forced is not None)
            state = control.advance(state, token)
        found = check(answer)
        assert state.used == found.used
        seen.update(reflections=found.reflections, closings=found.closings, blocks=len(found.rooms))
        seen.update(several=len(found.rooms) > 1, cut=answer.reason == "loop", full=len(answer.ids) == max_new)
    assert min(seen.values()) >= 20, seen
    assert len(seen) == 6


def decode(model: Any, prompts: list[list[int]], controls: list[ThinkingControl], max_new: int, **how: Any) -> Any:
    """Generate for a batch; prompts are padded on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    wanted = {"return_dict_in_generate": True, "output_logprobs": True, "max_new_tokens": max_new}
    return generate(model, ids, attention_mask=mask, row_controls=list(controls), **wanted, **how)


class Pieces:
    def __init__(self) -> None:
        self.columns: list[list[int]] = []

    def put(self, value: torch.Tensor) -> None:
        self.columns.append(value.tolist())

    def end(self) -> None:
        self.columns.append([])


def answers(result: Any, prompts: list[list[int]], controls: list[ThinkingControl], max_new: int) -> list[Answer]:
    """Cut each row of a result out of its padding."""
    new = result.sequences[:, max(map(len, prompts)) :].tolist()
    found: list[Answer] = []
    for row, (prompt, control) in enumerate(zip(prompts, controls, strict=True)):
        reason = result.finish_reasons[row]
        length = new[row].index(EOS) + 1 if reason == "eos" else int((result.logprobs[row] != 0).sum())
        forced = result.forced[row, :length].tolist()
        found.append(Answer(prompt, new[row][:length], forced, control.budget.limit, max_new, reason))
        assert bool(result.logprobs[row, :length].isfinite().all())
        assert bool((result.logprobs[row, :length] < 0).all())
    return found


HOW: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"do_sample": True, "seed": 7},
    "stop strings": {"stop_strings": ["e", "\n", "\n\n", "remaining"], "tokenizer": TOKENIZER},
    "filters": {"do_sample": True, "seed": 8, "top_k": 5, "top_p": 0.9, "repetition_penalty": 1.2},
}


@pytest.mark.parametrize("how", HOW)
def test_batches_streams_and_guesses(how: str) -> None:
    """Rows of a batch, each with a budget of its own; with and without guesses the ids are the same."""
    rng = random.Random(how)
    for case in range(9):
        num_rows, max_new = rng.choice([1, 1, 3]), rng.randint(1, 200)
        likes = random_likes(rng)
        controls = [ThinkingControl(TOKENS, random_budget(rng)) for _ in range(num_rows)]
        prompts = [list(rng.choice(list(PROMPTS.values()))) for _ in controls]
        for prompt, control in zip(prompts, controls, strict=True):
            prompt += control.prompt_suffix(prompt, max_new)
        streamer = Pieces()
        plain = decode(MarkovModel(case, likes), prompts, controls, max_new, streamer=streamer, **HOW[how])
        found = answers(plain, prompts, controls, max_new)
        assert [state.used for (state,) in plain.control_states] == [check(answer).used for answer in found]
        assert torch.tensor(streamer.columns[1:-1]).T.equal(plain.sequences[:, len(streamer.columns[0][0]) :])
        for guesses in (
            {"prompt_lookup_num_tokens": rng.randint(1, 12)},
            {"assistant_model": MarkovModel(case, likes, other=rng.choice([0.0, 0.3, 3.0])), "num_assistant_tokens": 4},
        ):
            again = decode(MarkovModel(case, likes), prompts, controls, max_new, **guesses, **HOW[how])
            assert torch.equal(again.sequences, plain.sequences)
            assert torch.equal(again.forced, plain.forced)
            assert again.finish_reasons == plain.finish_reasons
            assert again.control_states == plain.control_states
            torch.testing.assert_close(again.logprobs, plain.logprobs)


@pytest.mark.parametrize("how", [{}, {"do_sample": True, "seed": 5, "temperature": 2.0}], ids=["greedy", "seeded"])
def test_guesses_change_nothing_with_a_real_cache(how: dict[str, Any]) -> None:
    """A batch on tiny fp32 weights, whose guesses are partly wrong: keys and values are taken back in every state."""
    shape = {"vocab_size": SIZE, "max_position_embeddings": 512}
    large, small = models(**shape)[0], models(seed=3, num_hidden_layers=1, **shape)[0]
    likes = torch.zeros(SIZE)
    likes[[THINK, REFLECT, END_THINK, TOOL_CALL, EOS, ids_of(".")[0]]] = torch.tensor([9.0, 7, 5, 3, 4, 8])
    controls = [ThinkingControl(TOKENS, ThinkingBudget(limit)) for limit in (None, 0, 3, 24, 512)]
    prompts = [list(PROMPTS[name]) for name in ("absent", "half-open block", "begun", "reflecting", "open")]
    for prompt, control in zip(prompts, controls, strict=True):
        prompt += control.prompt_suffix(prompt, 90)

    def like(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores + likes

    settings = {"logits_processor": [like], "eos_token_id": EOS, "pad_token_id": PAD, **how}
    plain = decode(large, prompts, controls, 90, **settings)
    found = [check(answer) for answer in answers(plain, prompts, controls, 90)]
    assert sum(one.closings for one in found) >= 2
    for guesses in ({"prompt_lookup_num_tokens": 6}, {"assistant_model": small}, {"assistant_model": large}):
        again = decode(large, prompts, controls, 90, **guesses, **settings)
        assert torch.equal(again.sequences, plain.sequences)
        assert torch.equal(again.forced, plain.forced)
        torch.testing.assert_close(again.logprobs, plain.logprobs, atol=1e-4, rtol=1e-4)
