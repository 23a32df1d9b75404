"""Models and prompts that try to get around a thinking budget, or to an empty answer."""

from collections.abc import Sequence
from typing import Any

import pytest

from seed_oss.chat import parse, render
from seed_oss.chat.budget import ThinkingBudget
from seed_oss.generation.loop_guard import LoopGuard
from seed_oss.generation.thinking import ThinkingControl, ThinkingState, ThinkingTokens
from tests.generation import budget_runs as runs
from tests.generation.budget_runs import (
    CLOSING,
    END_REFLECT,
    END_THINK,
    END_TOOL_CALL,
    EOS,
    PAD,
    REFLECT,
    SIZE,
    SKIPPED,
    THINK,
    TOKENIZER,
    TOOL_CALL,
    Answer,
    check,
    ids_of,
)
from tests.seed_tokenizer import seed_tokenizer

TOKENS = ThinkingTokens.of(TOKENIZER)
TURN = [0, *ids_of("assistant\n")]
THOUGHT = [*TURN, THINK, *ids_of("So."), END_THINK]


def ids_of_bytes(text: str) -> list[int]:
    """One token for each byte."""
    alphabet = dict(zip(bytes(range(256)), _byte_tokens(), strict=True))
    return [alphabet[byte] for byte in text.encode()]


def _byte_tokens() -> list[int]:
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    names = {byte: chr(byte) for byte in shown} | {byte: chr(256 + place) for place, byte in enumerate(hidden)}
    return [TOKENIZER.convert_tokens_to_ids(names[byte]) for byte in range(256)]


def run(
    wishes: Sequence[int], prompt: Sequence[int], limit: int | None = 512, max_new: int = 60, **settings: Any
) -> Answer:
    """Say each wish where it may come, leave out those that may not, and end with ends for ever."""
    control = ThinkingControl(TOKENS, ThinkingBudget(limit), **settings)
    prompt = [*prompt, *control.prompt_suffix(prompt, max_new)]
    state: ThinkingState = control.start(prompt, max_new)
    answer = Answer(prompt, [], [], limit, max_new)
    source = iter(wishes)
    while len(answer.ids) < max_new and answer.ids[-1:] != [EOS]:
        directive = control.directive(state)
        token = directive.forced
        if token is None:
            token = next((one for one in source if one not in directive.banned), None)
        if token is None:
            token = next(one for one in (EOS, *range(SIZE)) if one not in directive.banned)
        answer.ids.append(token)
        answer.forced.append(directive.forced is not None)
        state = control.advance(state, token)
    return answer


@pytest.mark.parametrize(
    "blank",
    [
        [],
        ids_of(" \n\t "),
        ids_of_bytes("\u3000"),  # a wide space, byte by byte
        ids_of_bytes(" \u3000\u2003\n"),
        [PAD, 0, END_TOOL_CALL],
        [END_REFLECT, END_THINK],
        [REFLECT, *ids_of("I have used 3 tokens, and there are 4 tokens remaining for use."), END_REFLECT],
        [SIZE + 5],
    ],
    ids=["nothing", "blanks", "wide space", "spaces", "control tokens", "markers", "reflection", "no token"],
)
def test_no_end_before_an_answer_that_can_be_read(blank: list[int]) -> None:
    answer = run([*blank, EOS, *ids_of("x"), EOS], THOUGHT)
    check(answer)
    if REFLECT in blank:  # it is left out, and what would have stood in it is an answer
        assert answer.ids == [*blank[1:], EOS]
    else:
        assert answer.ids[-2:] == [*ids_of("x"), EOS]


@pytest.mark.parametrize("text", ["é", "你", "🙂", "\ufffd!"])
def test_a_character_in_pieces_is_an_answer_once_it_is_whole(text: str) -> None:
    ids = ids_of_bytes(text)
    answer = run([*[one for token in ids for one in (EOS, token)], EOS, *ids_of("no")], THOUGHT)
    assert answer.ids == [*ids, EOS]


def test_bytes_that_are_no_character_are_an_answer_in_the_end() -> None:
    half = ids_of_bytes("é")[0]
    answer = run([EOS, half, EOS, half, half, half, EOS], THOUGHT)
    check(answer)
    assert answer.ids == [half, half, half, half, EOS]


@pytest.mark.parametrize("max_new", [1, 2, 5])
def test_half_a_character_is_no_last_token(max_new: int) -> None:
    answer = run([PAD] * (max_new - 1) + ids_of_bytes("é"), THOUGHT, limit=0, max_new=max_new)
    assert len(answer.ids) == max_new
    assert "\ufffd" not in TOKENIZER.decode(answer.ids)


@pytest.mark.parametrize("limit", [None, 0, 3, 512])
@pytest.mark.parametrize("max_new", [1, 2, 30])
@pytest.mark.parametrize("text", [" ", "\n", "\u3000"])
def test_a_model_of_blanks_says_something_with_its_last_token(limit: int | None, max_new: int, text: str) -> None:
    for prompt in (TURN, THOUGHT, [*TURN, THINK]):
        answer = run(ids_of_bytes(text) * 60, prompt, limit, max_new)
        check(answer)
        assert len(answer.ids) == max_new


@pytest.mark.parametrize("max_new", [1, 2, len(CLOSING), len(CLOSING) + 1, 200])
def test_a_model_of_ends_or_calls_alone(max_new: int) -> None:
    for wish in (EOS, TOOL_CALL, THINK, END_THINK, REFLECT, END_REFLECT):
        for limit in (None, 0, 1, 7, 512):
            for prompt in (TURN, THOUGHT, [*TURN, THINK], [*TURN, THINK, REFLECT]):
                check(run([wish] * 300, prompt, limit, max_new))


def test_a_marker_that_is_spelled_out_closes_nothing() -> None:
    spelled = list(TOKENS.encode("</seed:think>"))
    assert len(spelled) > 1
    answer = run([*spelled, *ids_of("Four.")] * 20, [*TURN, THINK], 30, 200)
    found = check(answer)
    assert (found.closings, answer.ids.count(END_THINK)) == (1, 1)
    assert found.used >= 30


@pytest.mark.parametrize("limit", range(1, 9))
def test_without_grace_not_one_token_more(limit: int) -> None:
    grace = 1 if limit == 8 else 0
    assert check(run(ids_of("aaaaaaaa") * 20, [*TURN, THINK], limit, 200)).used == limit + grace


def test_a_reflection_that_the_prompt_opens_is_told_the_truth() -> None:
    words = [*ids_of("I have used 9 tokens"), END_REFLECT]
    for limit, num_told in ((512, 1), (20, 0), (None, 0)):
        answer = run(words, [*TURN, THINK, *ids_of("So."), REFLECT], limit, 200)
        assert check(answer).reflections == num_told
        assert (answer.ids[: len(words)] == words) == (limit is None)


def test_a_reflection_in_the_prompt_that_must_be_closed_counts() -> None:
    prompt = [*TURN, THINK, REFLECT, *ids_of("I have")]
    brought = len(prompt) - len(TURN) - 1
    for limit in range(brought - 1, brought + 4):
        found = check(run(ids_of("used ") * 50, prompt, limit, 200))
        assert found.used == max(limit + limit // 8, brought + 1)


@pytest.mark.parametrize("num_written", range(len(SKIPPED) + 1))
def test_what_is_open_of_the_trained_block_is_completed(num_written: int) -> None:
    control = ThinkingControl(TOKENS, ThinkingBudget(0))
    prompt = [*TURN, *SKIPPED[:num_written]]
    assert [*prompt, *control.prompt_suffix(prompt, 100)] == [*TURN, *SKIPPED]


def test_nothing_is_appended_behind_content() -> None:
    control = ThinkingControl(TOKENS, ThinkingBudget(0))
    prompt = [*THOUGHT, *ids_of("\nFour")]
    assert control.prompt_suffix(prompt, 100) == []
    state = control.start(prompt, 100)
    assert not state.needs_content
    assert {THINK, END_THINK} <= control.directive(state).banned


def test_the_trained_words_are_encoded_as_in_the_template() -> None:
    """What is forced has the ids that the model was trained on: those of the rendered conversation."""

    def ids_with_markers(text: str) -> list[int]:
        return TOKENIZER(text, add_special_tokens=False)["input_ids"]

    opening, closing = "<seed:cot_budget_reflect>", "</seed:cot_budget_reflect>"
    assert ids_with_markers(f"{opening}{runs.SPENT}{closing}\n</seed:think>") == CLOSING
    prompt = render([{"role": "user", "content": "q"}], thinking_budget=0, add_generation_prompt=True)
    assert ids_with_markers(prompt)[-len(SKIPPED) :] == SKIPPED
    answer = run([*ids_of("a " * 9), REFLECT, EOS, END_THINK], [*TURN, THINK], 512, 400)
    pieces = TOKENIZER.detokenizer().put_pieces(answer.ids)
    (reflection,) = parse(pieces, start="thinking").reflections
    used = len(ids_of("a " * 9)) + 1
    assert (reflection.used, reflection.remaining) == (used, 512 - used)


def test_the_vocabulary_is_looked_through_once_for_all_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, num_decoded = seed_tokenizer(), 0
    decode = tokenizer.decode

    def counted(token_ids: list[int]) -> Any:
        nonlocal num_decoded
        num_decoded += len(token_ids)
        return decode(token_ids)

    monkeypatch.setattr(tokenizer, "decode", counted)
    found: list[Any] = []
    for _ in range(3):
        tokens = ThinkingTokens.of(tokenizer)
        assert {END_THINK, EOS, TOOL_CALL, PAD, *ids_of("\n"), *ids_of_bytes("é")} <= tokens.blanks(())
        assert not tokens.blanks(()) & {*ids_of("a")}
        found.append(tokens.wordless())
    assert found[0] is found[1] is found[2]
    assert num_decoded < 3 * 2 * 160  # parts of characters alone, not each of the vocabulary


class CountedIds(Sequence[int]):
    """Ids that count how many of them were read."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids, self.num_read = list(ids), 0

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, place: Any) -> Any:
        found = self.ids[place]
        self.num_read += len(found) if isinstance(found, list) else 1
        return found


@pytest.mark.parametrize("head", [[], [EOS], [THINK], [THINK, REFLECT], [THINK, END_THINK]])
def test_a_prompt_is_read_once(head: list[int]) -> None:
    control = ThinkingControl(TOKENS, ThinkingBudget(512))
    prompt = CountedIds([*head, *ids_of("a") * 20_000])
    control.start(prompt, 100)
    assert prompt.num_read <= 3 * len(prompt)
    control.prompt_suffix(prompt, 1)
    assert prompt.num_read <= 6 * len(prompt)


def test_ten_thousand_tokens_of_thinking_cost_the_same_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered does not grow, and no token is read or decoded again."""
    num_texts = num_looked_at = 0
    guard = LoopGuard(window=256)

    def text_of(token_id: int) -> str:
        nonlocal num_texts
        num_texts += 1
        return "a"

    def is_loop(self: LoopGuard, tail: Sequence[int]) -> bool:
        nonlocal num_looked_at
        num_looked_at += len(tail)
        return False

    monkeypatch.setattr(LoopGuard, "is_loop", is_loop)
    tokens = ThinkingTokens(THINK, END_THINK, REFLECT, END_REFLECT, None, frozenset({EOS}), ids_of, text_of)
    control = ThinkingControl(tokens, ThinkingBudget(20_000), guard)
    state = control.start([THINK], 40_000)
    for place in range(10_000):
        control.directive(state)
        state = control.advance(state, 300 + place % 100)
        assert len(state.tail) <= guard.window
        assert not state.pending
        assert not state.begun
    assert state.used == 10_000
    assert num_texts <= 2 * 10_000
    assert num_looked_at <= 8 * guard.window * 10_000 // guard.every
