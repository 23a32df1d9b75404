"""Several controls on one row, and rows with different controls: each holds, and none costs the batch."""

from typing import Any

import pytest
import torch

from seed_oss import SeedOssForCausalLM
from seed_oss.chat import parse
from seed_oss.chat.budget import BUDGET_SPENT, NO_BUDGET, ThinkingBudget
from seed_oss.chat.output_format import OutputFormat
from seed_oss.errors import NumericalError
from seed_oss.generation import GrammarCompiler, generate
from seed_oss.generation.row_control import FREE, GRAMMAR_ERROR, Directive, RowControl, combine
from seed_oss.generation.thinking import ThinkingControl, ThinkingTokens
from tests.factory import tiny_model
from tests.generation.budget_runs import MarkovModel
from tests.generation.grammar_runs import (
    BOS,
    END_THINK,
    EOS,
    THINK,
    TOOL_CALL,
    compiler,
    control,
    ids_of,
    text_of,
    tokenizer,
)
from tests.scripted_model import ScriptedModel

SIZE = 512
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}},
            "required": ["a"],
            "additionalProperties": False,
        },
    },
}


def mask(*tokens: int, size: int = 8) -> torch.Tensor:
    allowed = torch.zeros(size, dtype=torch.bool)
    allowed[list(tokens)] = True
    return allowed


def thinking(budget: int | None = 8) -> ThinkingControl:
    return ThinkingControl(ThinkingTokens.of(tokenizer()), ThinkingBudget(budget))


def wishing(*parts: str | int) -> Any:
    """A model that wants to say these texts and tokens."""
    script = [token for part in parts for token in ([part] if isinstance(part, int) else ids_of(part))]
    return ScriptedModel(script, SIZE)


def run_all(model: Any, rows: list[list[int]], controls: list[Any], **how: Any) -> Any:
    settings = {"max_new_tokens": 60, "eos_token_id": EOS, "pad_token_id": 1, "return_dict_in_generate": True, **how}
    return generate(model, torch.tensor(rows), row_controls=controls, **settings)


def answer(result: Any, num_prompt: int, row: int = 0) -> str:
    """The row's text up to its end."""
    ids = result.sequences[row, num_prompt:].tolist()
    return text_of(ids[: ids.index(EOS)] if EOS in ids else ids)


class TestCombine:
    def test_a_ban_yields_to_what_completes_the_answer(self) -> None:
        held = Directive(banned=frozenset({1, 2, 3}), yielding=frozenset({2, 3}))
        both = combine([held, Directive(allowed=mask(1, 2, 4), completing=frozenset({2}))])
        assert both.banned == {1, 3}

    def test_a_ban_yields_where_nothing_else_may_come(self) -> None:
        held = Directive(banned=frozenset({1, 2}), yielding=frozenset({2}))
        assert combine([held, Directive(allowed=mask(1, 2))]).banned == {1}
        assert combine([held, Directive(allowed=mask(1, 2, 3))]).banned == {1, 2}
        assert combine([held, FREE]).banned == {1, 2}
        assert combine([held, Directive(allowed=mask(2, 3), banned=frozenset({2}))]).banned == {1, 2}

    def test_nothing_left_stops_the_row(self) -> None:
        assert combine([Directive(allowed=mask(1)), Directive(allowed=mask(2))]).stop == GRAMMAR_ERROR
        assert combine([Directive(allowed=mask(1)), Directive(banned=frozenset({1, 700, -1}))]).stop == GRAMMAR_ERROR

    def test_masks_of_different_lengths(self) -> None:
        allowed = combine([Directive(allowed=mask(1, 2)), Directive(allowed=mask(2, 9, size=12))]).allowed
        assert allowed is not None
        assert allowed.nonzero().flatten().tolist() == [2]

    def test_the_first_that_forces_or_stops_wins(self) -> None:
        force, stop = Directive(forced=5), Directive(stop="enough")
        assert (combine([FREE, force, stop]).forced, combine([FREE, force, stop]).stop) == (5, None)
        assert (combine([stop, force]).forced, combine([stop, force]).stop) == (None, "enough")


# A form that may be empty or blank, after thinking, where a budget wants an answer


@pytest.mark.parametrize("guesses", [{}, {"prompt_lookup_num_tokens": 3}])
@pytest.mark.parametrize(
    ("form", "wish", "expected"),
    [
        (OutputFormat.regex("a?"), [EOS, "x"], "a"),  # not empty where it need not be
        (OutputFormat.regex("a*"), ["aa", EOS], "aa"),
        (OutputFormat.regex("[ \t]+"), [" ", EOS], " "),  # as blank as it was asked for
        (OutputFormat.regex("[ \t]*"), [EOS, " ", EOS], " "),
        (OutputFormat.regex("()"), [EOS, "x"], ""),
        (OutputFormat.lark('start: "" | "ab"'), [EOS, "x"], "ab"),
        (OutputFormat.lark('start: ""'), ["x", EOS], ""),
    ],
)
def test_a_form_that_may_be_empty_or_blank(form: OutputFormat, wish: Any, expected: str, guesses: Any) -> None:
    prompt = [BOS, THINK, *ids_of("So."), END_THINK]
    held = control(response_format=form, vocab_size=SIZE)
    if not guesses:
        result = run_all(wishing(*wish), [prompt], [[thinking(), held]], max_new_tokens=20)
        assert answer(result, len(prompt)).lstrip("\n") == expected
        assert result.finish_reasons == ["eos"]
    model = tiny_model(SeedOssForCausalLM, vocab_size=SIZE)
    result = run_all(model, [prompt] * 2, [[thinking(), held], None], max_new_tokens=8, **guesses)
    assert result.finish_reasons[0] in ("eos", "length")


def test_with_one_token_left_a_form_goes_before_the_wish_for_content() -> None:
    held = control(response_format=OutputFormat.regex("\n{3}"), vocab_size=SIZE)
    prompt = [BOS, THINK, *ids_of("So."), END_THINK]
    result = run_all(wishing("x"), [prompt], [[thinking(), held]], max_new_tokens=1)
    assert answer(result, len(prompt)).strip() == ""
    assert result.finish_reasons == ["length"]


# What leaves a row no token ends that row


class Bans(RowControl):
    """Never lets some tokens come."""

    def __init__(self, tokens: Any) -> None:
        self.tokens = frozenset(tokens)

    def start(self, prompt_ids: Any, max_new_tokens: int) -> None:
        return None

    def directive(self, state: None) -> Directive:
        return Directive(banned=self.tokens)

    def advance(self, state: None, token_id: int) -> None:
        return None


def test_controls_that_exclude_each_other_end_their_row_only() -> None:
    model = tiny_model(SeedOssForCausalLM, vocab_size=SIZE)
    held = control(response_format=OutputFormat.regex("ab"), vocab_size=SIZE)
    rows = [[BOS, 20, END_THINK]] * 2
    result = run_all(model, rows, [[held, Bans(ids_of("b"))], None], max_new_tokens=6, eos_token_id=None)
    assert result.finish_reasons == [GRAMMAR_ERROR, "length"]
    assert text_of(result.sequences[0, 3:].tolist()).strip("\n").startswith("a<seed:pad>")


@pytest.mark.parametrize("how", [{}, {"do_sample": True, "seed": 1}, {"do_sample": True}])
def test_processors_that_forbid_what_a_grammar_needs_end_the_row(how: dict[str, Any]) -> None:
    model = tiny_model(SeedOssForCausalLM, vocab_size=SIZE)
    held = control(response_format=OutputFormat.regex("[0-9]{3}"), vocab_size=SIZE)
    rows = [[BOS, 20, THINK, END_THINK]] * 2
    result = run_all(model, rows, [held, None], max_new_tokens=12, min_new_tokens=12, output_scores=True, **how)
    assert result.finish_reasons == [GRAMMAR_ERROR, "length"]
    assert text_of(result.sequences[0, 4:].tolist()).replace("<seed:pad>", "").strip().isdecimal()
    assert len(result.scores) == result.sequences.shape[1] - 4 == 12
    result = run_all(model, rows[:1], [held], max_new_tokens=12, min_new_tokens=12, output_scores=True, **how)
    assert result.finish_reasons == [GRAMMAR_ERROR]
    assert len(result.scores) == result.sequences.shape[1] - 4 <= 5


def test_nan_is_no_end_of_a_form() -> None:
    model = tiny_model(SeedOssForCausalLM, vocab_size=SIZE)
    torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    held = control(response_format=OutputFormat.regex("ab"), vocab_size=SIZE)
    with pytest.raises(NumericalError, match="NaN"):
        run_all(model, [[BOS, END_THINK]], [held])


@pytest.mark.parametrize("how", [{}, {"do_sample": True, "seed": 1}, {"prompt_lookup_num_tokens": 2}])
def test_a_forced_end_of_the_settings_yields_to_the_controls(how: dict[str, Any]) -> None:
    model = MarkovModel(3, {1: 40.0})  # wants nothing but pads
    held = control(response_format=OutputFormat.regex("[a-c]{9}"), vocab_size=448)
    prompts = [[BOS, 20, THINK, END_THINK]] * 3
    result = run_all(model, prompts, [thinking(0), held, None], max_new_tokens=2, forced_eos_token_id=EOS, **how)
    blank, cut, free = (row[4:].tolist() for row in result.sequences)
    assert result.finish_reasons == ["length", "length", "eos"]
    assert text_of(blank[1:]).strip()
    assert set(text_of(cut)) <= set("abc\n")
    assert free[-1] == EOS


@pytest.mark.parametrize("form", [None, "[a-c]{9}"])
def test_the_ends_of_the_settings_are_ends_for_the_controls(form: str | None) -> None:
    end = ids_of("z")[0]
    ids = torch.tensor([[BOS, 20, THINK]])
    rows = [thinking(64)] if form is None else [control(response_format=OutputFormat.regex(form), vocab_size=SIZE)]
    model = wishing(end, end, END_THINK, *"abcabcabc", end)
    result: Any = generate(
        model, ids, row_controls=[rows], max_new_tokens=80, eos_token_id=[EOS, end], return_dict_in_generate=True
    )
    new = result.sequences[0, 3:].tolist()
    assert END_THINK in new
    assert end not in new[: new.index(END_THINK)]
    if form is not None:
        assert (new[-1], result.finish_reasons) == (end, ["eos"])


def test_an_end_that_the_settings_do_not_know_ends_a_form() -> None:
    held = control(response_format=OutputFormat.regex("ab"), vocab_size=SIZE)
    result = run_all(wishing("ab", EOS, "cd"), [[BOS, END_THINK]], [held], eos_token_id=77)
    assert result.sequences[0, 2:].tolist() == [*ids_of("ab"), EOS]
    assert result.finish_reasons == ["eos"]


# Rows side by side


def mixed_controls() -> list[Any]:
    form = control(response_format=OutputFormat.regex("[0-9]{3}(,[0-9]{3})*"), vocab_size=SIZE)
    calls = control(tools=[TOOL], tool_choice="required", parallel_tool_calls=False, vocab_size=SIZE)
    auto = control(tools=[TOOL], tool_choice="auto", vocab_size=SIZE)
    return [form, None, [thinking(), form], [thinking(), calls], [thinking(), auto], [thinking()]]


def test_each_row_is_as_if_alone() -> None:
    model = tiny_model(SeedOssForCausalLM, vocab_size=SIZE)
    rows = [[BOS, *ids_of("assistant\n"), THINK, *ids_of(word)] for word in ("one", "two", "six", "ten", "red", "sun")]
    rows[0] = rows[1] = [*rows[0][:-2], THINK, END_THINK]
    rows = [row[: min(map(len, rows))] for row in rows]
    controls = mixed_controls()
    together = run_all(model, rows, controls, output_logprobs=True)
    for index, (row, one) in enumerate(zip(rows, controls, strict=True)):
        alone = run_all(model, [row], [one], output_logprobs=True)
        length = alone.sequences.shape[1]
        assert together.sequences[index, :length].tolist() == alone.sequences[0].tolist(), index
        assert bool((together.sequences[index, length:] == 1).all())
        assert together.finish_reasons[index] == alone.finish_reasons[0]
        if index != 1:
            assert together.forced[index, : length - len(row)].tolist() == alone.forced[0].tolist()


@pytest.mark.parametrize("index", range(6))
@pytest.mark.parametrize("how", [{}, {"do_sample": True, "temperature": 0.5, "seed": 5}])
def test_guesses_change_nothing(index: int, how: dict[str, Any]) -> None:
    model = tiny_model(SeedOssForCausalLM, vocab_size=SIZE)
    rows = [[BOS, *ids_of("assistant\n"), THINK]] * 2
    both = [mixed_controls()[index], mixed_controls()[(index + 3) % 6]]
    plain = run_all(model, rows, both, max_new_tokens=90, **how)
    guessed = run_all(model, rows, both, max_new_tokens=90, prompt_lookup_num_tokens=4, **how)
    assert torch.equal(guessed.sequences, plain.sequences)
    assert guessed.finish_reasons == plain.finish_reasons
    assert torch.equal(guessed.forced, plain.forced)


# Thinking with tools


def test_closing_words_are_forced_while_calls_are_waited_for() -> None:
    held = control(tools=[TOOL], tool_choice="auto", vocab_size=SIZE)
    call = [TOOL_CALL, "\n<function=add>\n<parameter=a>7</parameter>\n</function>\n", 8, EOS]
    model = wishing(THINK, "so on " * 60, END_THINK, *call)
    result = run_all(model, [[BOS, *ids_of("assistant\n")]], [[thinking(), held]], max_new_tokens=600)
    message = parse(text_of(result.sequences[0].tolist()), tools=[TOOL])
    assert BUDGET_SPENT in message.reasoning
    assert [one.parsed_arguments() for one in message.tool_calls] == [{"a": 7}]
    assert bool(result.forced.any())


@pytest.mark.parametrize("wish", ["call", "form"])
def test_a_form_or_calls_after_a_budget_of_nothing(wish: str) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    held = control(tools=[TOOL], tool_choice="auto", response_format=OutputFormat.json_schema(schema), vocab_size=SIZE)
    none = thinking(0)
    prompt = [BOS, *ids_of("assistant\n")]
    prompt += none.prompt_suffix(prompt, 100)
    assert prompt[-1] == END_THINK
    assert NO_BUDGET in text_of(prompt)
    call = [TOOL_CALL, "\n<function=add>\n<parameter=a>7</parameter>\n</function>\n", 8, EOS]
    model = wishing(THINK, "\n", "no", *(call if wish == "call" else ['{"n": 3}', EOS]))
    result = run_all(model, [prompt], [[none, held]], max_new_tokens=100)
    message = parse(answer(result, len(prompt)), tools=[TOOL], start="closed")
    assert message.reasoning == ""
    if wish == "call":
        assert [one.parsed_arguments() for one in message.tool_calls] == [{"a": 7}]
    else:
        assert (message.content.replace(" ", ""), message.tool_calls) == ('{"n":3}', ())


# A grammar that was used up


def test_a_row_that_wears_a_grammar_out_spoils_no_other() -> None:
    held = control(response_format=OutputFormat.regex("(a|b)*a(a|b){30}c"))
    first, second = held.start([END_THINK], 9), held.start([END_THINK], 9)
    source = torch.Generator().manual_seed(0)
    letters = [ids_of(letter)[0] for letter in "ab"]
    for _ in range(20_000):
        first = held.advance(first, letters[int(torch.randint(2, (), generator=source))])
    assert held.directive(first).stop == GRAMMAR_ERROR  # its own text is too much
    second = held.advance(second, letters[0])
    for state in (second, held.start([END_THINK], 9)):
        allowed = held.directive(state).allowed
        assert allowed is not None
        assert bool(allowed[letters].all())


def test_the_compiler_stays_with_the_tokenizer() -> None:
    mine = tokenizer().__class__(tokenizer().backend_tokenizer, eos_token="<seed:eos>")
    made = GrammarCompiler.of(mine)
    assert GrammarCompiler.of(mine) is made is not compiler()
    mine.eos_token = "<seed:bos>"
    assert GrammarCompiler.of(mine) is not made
    mine.eos_token = "<seed:eos>"
    assert GrammarCompiler.of(mine) is made
