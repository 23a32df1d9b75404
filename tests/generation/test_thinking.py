"""Thinking budgets with a scripted model: any tokens it may want, against what the control allows."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
import torch

from seed_oss.chat.budget import BUDGET_SPENT, NO_BUDGET, ThinkingBudget
from seed_oss.generation import GenerateDecoderOnlyOutput, generate
from seed_oss.generation.loop_guard import LoopGuard
from seed_oss.generation.thinking import ThinkingControl, ThinkingState, ThinkingTokens
from tests.scripted_model import ScriptedModel
from tests.seed_tokenizer import seed_tokenizer

# One token per character, so that counts can be read off; markers are the ids below 10.
THINK, END_THINK, REFLECT, END_REFLECT, TOOL_CALL, EOS = range(6)
MARKERS = {
    THINK: "<think>",
    END_THINK: "</think>",
    REFLECT: "<reflect>",
    END_REFLECT: "</reflect>",
    TOOL_CALL: "<call>",
    EOS: "<eos>",
}


def ids_of(text: str) -> list[int]:
    return [ord(char) + 10 for char in text]


def text_of(token_id: int) -> str:
    return MARKERS.get(token_id) or chr(token_id - 10)


def shown(ids: Sequence[int]) -> str:
    return "".join(map(text_of, ids))


TOKENS = ThinkingTokens(THINK, END_THINK, REFLECT, END_REFLECT, TOOL_CALL, frozenset({EOS}), ids_of, text_of)
CLOSING = f"<reflect>{BUDGET_SPENT}</reflect>\n</think>"
CLOSING_LEN = len(BUDGET_SPENT) + 4
SKIPPED = f"<think>\n<reflect>{NO_BUDGET}</reflect>\n</think>"


@dataclass
class Run:
    """What came of a run."""

    ids: list[int]
    forced: list[bool]
    state: ThinkingState
    stop: str | None

    @property
    def text(self) -> str:
        return shown(self.ids)


def run(control: ThinkingControl, wishes: Iterator[int], max_new: int, prompt: Sequence[int] = ()) -> Run:
    """Generate what the model wishes, where it may."""
    state = control.start(prompt, max_new)
    ids: list[int] = []
    forced: list[bool] = []
    while len(ids) < max_new:
        directive = control.directive(state)
        if directive.stop:
            return Run(ids, forced, state, directive.stop)
        token = directive.forced
        if token is None:
            token = next(wish for wish in wishes if wish not in directive.banned)
        ids.append(token)
        forced.append(directive.forced is not None)
        state = control.advance(state, token)
        if token == EOS:
            break
    return Run(ids, forced, state, None)


def script(*parts: str | int) -> Iterator[int]:
    """Tokens of texts and markers, then ends for ever."""
    for part in parts:
        yield from [part] if isinstance(part, int) else ids_of(part)
    while True:
        yield EOS


def endless(text: str) -> Iterator[int]:
    while True:
        yield from ids_of(text)


def control(limit: int | None, **settings: object) -> ThinkingControl:
    return ThinkingControl(TOKENS, ThinkingBudget(limit), **settings)  # type: ignore[arg-type]


def test_a_model_within_its_budget_is_left_alone() -> None:
    got = run(control(512), script(THINK, "Hm. Yes.", END_THINK, "\nFour."), 1000)
    assert got.text == "<think>Hm. Yes.</think>\nFour.<eos>"
    assert not any(got.forced)
    assert (got.state.used, got.state.closed_by) == (8, "model")


def test_a_spent_budget_closes_in_the_trained_words() -> None:
    got = run(control(16), script(THINK, "a" * 100, END_THINK, "Four."), 1000)
    assert got.text.startswith("<think>" + "a" * 18 + CLOSING)  # the grace is 16 // 8
    assert (got.state.used, got.state.closed_by) == (18, "budget")
    assert got.forced == [False] * 19 + [True] * CLOSING_LEN + [False] * (len(got.ids) - 19 - CLOSING_LEN)


def test_it_closes_at_the_end_of_a_sentence_within_the_grace() -> None:
    got = run(control(64), script(THINK, "b" * 67 + ". And so on for long", END_THINK, "Four."), 1000)
    assert got.text.startswith("<think>" + "b" * 67 + "." + CLOSING)
    assert got.state.used == 68


def test_reflections_say_the_truth() -> None:
    got = run(
        control(400), script(THINK, "c" * 99, REFLECT, "I have used 516 tokens", END_REFLECT, END_THINK, "x"), 1000
    )
    told = "I have used 100 tokens, and there are 300 tokens remaining for use."
    assert f"{'c' * 99}<reflect>{told}</reflect>" in got.text
    assert got.state.used == 100 + len(told) + 1 + len("I have used 516 tokens") + 1


def test_a_reflection_that_does_not_fit_becomes_the_closing() -> None:
    got = run(control(120), script(THINK, "d" * 99, REFLECT, "no", END_THINK, "x"), 1000)
    assert got.text.startswith("<think>" + "d" * 99 + CLOSING + "no")
    assert (got.state.used, got.state.closed_by) == (99, "budget")


def test_without_a_budget_reflections_are_the_models_own() -> None:
    got = run(control(None), script(THINK, REFLECT, "516!", END_REFLECT, END_THINK, "x"), 4000)
    assert got.text == "<think><reflect>516!</reflect></think>x<eos>"


@pytest.mark.parametrize("limit", [None, 10_000])
def test_there_is_a_reserve_for_the_answer(limit: int | None) -> None:
    got = run(control(limit), script(THINK, "e" * 10_000), 800)
    assert CLOSING in got.text
    assert got.state.closed_by == "length"
    assert got.text.index(CLOSING) + CLOSING_LEN <= 800 + len(got.text) - len(got.ids) - 200
    assert len(got.ids) == 800 or got.ids[-1] == EOS


def test_a_reflection_left_open_is_closed_first() -> None:
    got = run(control(None), script(THINK, REFLECT, "f" * 10_000), 300)
    assert f"f</reflect>{CLOSING}" in got.text


def test_no_end_inside_thinking_and_none_before_an_answer() -> None:
    got = run(control(512), script(THINK, "g", EOS, EOS, "h", END_THINK, EOS, "\n ", EOS, "i", EOS), 1000)
    assert got.text == "<think>gh</think>\n i<eos>"


def test_a_tool_call_is_an_answer() -> None:
    got = run(control(512), script(THINK, "g", END_THINK, "\n", EOS, TOOL_CALL, EOS), 1000)
    assert got.text == "<think>g</think>\n<call><eos>"


def test_several_blocks_share_the_budget() -> None:
    blocks = [part for _ in range(5) for part in (THINK, "j" * 10, END_THINK, "k")]
    got = run(control(24), script(*blocks), 2000)
    assert got.text.count("<think>") == 3
    assert got.text.count(CLOSING) == 1
    assert got.state.used <= 24 + 3


@pytest.mark.parametrize(
    ("prompt", "suffix"),
    [
        ([*ids_of("assistant\n")], SKIPPED),
        ([EOS, *ids_of("assistant\n")], SKIPPED),
        ([THINK], SKIPPED.removeprefix("<think>")),
        ([THINK, *ids_of("so")], SKIPPED.removeprefix("<think>\n")),
        ([THINK, REFLECT], SKIPPED.removeprefix("<think>\n<reflect>")),
        ([THINK, *ids_of("x"), END_THINK], ""),
        ([THINK, END_THINK, EOS, *ids_of("assistant\n")], SKIPPED),
    ],
)
def test_a_budget_of_nothing_is_written_into_the_prompt(prompt: list[int], suffix: str) -> None:
    assert shown(control(0).prompt_suffix(prompt, 1000)) == suffix
    assert shown(control(512).prompt_suffix(prompt, 5)) == suffix
    assert shown(control(None).prompt_suffix(prompt, 5)) == suffix
    assert control(512).prompt_suffix(prompt, 1000) == []
    assert ThinkingControl(TOKENS, ThinkingBudget(0, "soft")).prompt_suffix(prompt, 1000) == []
    after = control(0).start([*prompt, *control(0).prompt_suffix(prompt, 1000)], 1000)
    assert not after.is_thinking
    assert after.needs_content


def test_a_budget_of_nothing_forbids_thinking() -> None:
    got = run(control(0), script(THINK, "x", EOS), 100)
    assert got.text == "x<eos>"


def test_thinking_that_began_in_the_prompt_counts() -> None:
    got = run(control(16), endless("l"), 1000, prompt=[THINK, *ids_of("m" * 10)])
    assert got.text.startswith("l" * 8 + CLOSING)
    assert got.state.used == 18


def test_loops_close_thinking_and_stop_answers() -> None:
    guarded = control(None, guard=LoopGuard())
    got = run(guarded, (token for part in ([THINK], endless("over and ")) for token in part), 3000)
    assert got.text.count(CLOSING) == 1
    assert got.state.closed_by == "loop"
    assert got.stop == "loop"
    assert len(got.ids) < 500
    assert run(control(None), endless("over and "), 1000).stop is None


def test_the_result_says_what_closed_the_thinking() -> None:
    """In `generate`: the reason of the thinking in the control's state, that of the answer in `finish_reasons`."""
    tokenizer = seed_tokenizer()
    over = tokenizer("<seed:think>" + "over and " * 60, add_special_tokens=False)["input_ids"]
    held = ThinkingControl(ThinkingTokens.of(tokenizer), ThinkingBudget(None), LoopGuard(window=64, min_tokens=30))
    result = generate(
        ScriptedModel(over, len(tokenizer)),
        torch.tensor([[0]]),
        row_controls=held,
        max_new_tokens=600,
        return_dict_in_generate=True,
    )
    assert isinstance(result, GenerateDecoderOnlyOutput)
    assert result.control_states is not None
    assert result.control_states[0][0].closed_by == "loop"
    assert result.finish_reasons == ["loop"]


def test_thinking_without_a_start_is_closed_once() -> None:
    got = run(control(512), script("hm", END_THINK, EOS, "a", END_THINK, "b", END_THINK, EOS), 1000)
    assert got.text == "hm</think>ab<eos>"


def test_stop_strings_wait_for_the_answer() -> None:
    held, open_ = control(512), control(512, stops_while_thinking=True)
    state = held.advance(held.start([], 1000), THINK)
    assert not held.directive(state).text_may_end
    assert open_.directive(state).text_may_end
    state = held.advance(state, END_THINK)
    assert open_.directive(state).text_starts
    assert held.directive(state).text_may_end
    assert not held.directive(held.advance(state, ids_of("n")[0])).text_starts


def random_wishes(rng: random.Random) -> Iterator[int]:
    while True:
        yield rng.choice([THINK, END_THINK, REFLECT, END_REFLECT, TOOL_CALL, EOS, *ids_of("ab .\n" * 4)])


def random_prompt(rng: random.Random) -> list[int]:
    return rng.choice([[], [THINK], [THINK, REFLECT], [THINK, *ids_of("ab")], [EOS, *ids_of("q")], [THINK, END_THINK]])


def test_whatever_the_model_wishes() -> None:
    rng = random.Random(0)
    for _ in range(3000):
        limit = rng.choice([None, 0, 1, 5, 64, 200, 512])
        max_new = rng.choice([1, 3, 40, CLOSING_LEN, CLOSING_LEN + 1, CLOSING_LEN + 2, 150, 400, 900])
        held = control(limit, guard=rng.choice([None, LoopGuard(every=7, min_tokens=8)]))
        prompt = random_prompt(rng)
        prompt += held.prompt_suffix(prompt, max_new)
        before = held.start(prompt, max_new)
        got = run(held, random_wishes(rng), max_new, prompt)
        if limit is not None:
            assert got.state.used <= max(limit + held.budget.grace, before.used)
        assert not got.state.is_thinking, got.text
        if got.stop is None and (before.needs_content or any(token == END_THINK for token in got.ids)):
            last = max((i for i, token in enumerate(got.ids) if token == END_THINK), default=-1)
            answer = got.ids[last + 1 :]
            assert TOOL_CALL in answer or any(t >= 10 and text_of(t).strip() for t in answer) or len(got.ids) == max_new
            assert answer
