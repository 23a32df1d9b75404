"""`seed-oss chat` and `generate` with a model that thinks and calls tools."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from seed_oss.chat.assistant_message import AssistantMessage, ToolCall
from seed_oss.chat.python_tools import PythonTool
from seed_oss.cli import call_card, session, tool_runner
from seed_oss.cli.answer_view import AnswerView
from seed_oss.cli.call_card import visible
from seed_oss.cli.paper import PlainPaper
from seed_oss.cli.tool_runner import Consent, ToolRunner, load_tools
from seed_oss.errors import InputError, MissingFileError
from seed_oss.models.chat import prepare_turn as turn
from tests.cli.conftest import Run
from tests.cli.scripted_chat import scripted

TOOLS = '''
import json


def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    print("adding")
    return a + b


def read(name: str) -> dict:
    """Read a file."""
    return {"text": open(name).read()}


def leave() -> None:
    """Leave."""
    raise SystemExit(3)


def stop() -> None:
    """As if the user pressed Ctrl-C while it runs."""
    raise KeyboardInterrupt


def odd() -> object:
    """Return what JSON cannot hold."""
    return object()
'''


def call(name: str, /, **arguments: Any) -> str:
    values = "".join(f"<parameter={key}>{value}</parameter>\n" for key, value in arguments.items())
    return f"<seed:tool_call>\n<function={name}>\n{values}</function>\n</seed:tool_call>"


ADDS = f"<seed:think>Add them.</seed:think>\nLet me see.\n{call('add', a=2, b=3)}<seed:eos>"
DONE = "<seed:think>Now I know.</seed:think>\nIt is 5.<seed:eos>"
THINKS = "<seed:think>Two and\ntwo.</seed:think>\n\nFour.\n<seed:eos>"


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    file = tmp_path / "tools.py"
    file.write_text(TOOLS)
    return file


@pytest.fixture
def talk(run: Run, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command with a model that says these texts; gives the outcome and the model."""

    def go(texts: list[str], *arguments: str | Path, stdin: str = "Hello\n", command: str = "chat") -> Any:
        loaded = scripted(texts)
        monkeypatch.setattr(f"seed_oss.cli.{command}.load", lambda *_, **__: loaded)
        return run(command, *arguments, stdin=stdin), loaded.model

    return go


def consenting(monkeypatch: pytest.MonkeyPatch, *answers: Consent | type[BaseException]) -> list[ToolCall]:
    asked: list[ToolCall] = []
    waiting = list(answers)

    def ask(one: ToolCall) -> Consent:
        asked.append(one)
        answer = waiting.pop(0)
        if isinstance(answer, Consent):
            return answer
        raise answer

    monkeypatch.setattr(session, "ask_consent", ask)
    return asked


def test_thinking_and_answer_are_kept_apart(talk: Any) -> None:
    outcome, _ = talk([THINKS])
    assert outcome.code == 0
    assert outcome.out == "Four.\n\n"  # and the end of the input
    assert outcome.err.startswith("Two and\ntwo.\n")
    assert re.search(r"\d+ tokens \(\d+ of them thinking\), ", outcome.err)


def test_the_next_prompt_has_the_thinking_of_the_last(talk: Any) -> None:
    _, model = talk([THINKS], stdin="one\ntwo\n")
    assert "<seed:think>Two and\ntwo.</seed:think>\nFour.<seed:eos>" in model.prompts[1]


def test_folded_thinking_is_one_line(talk: Any) -> None:
    outcome, _ = talk([THINKS], "--fold", stdin="one\n/show\n/fold\ntwo\n")
    assert outcome.out == "Four.\nFour.\n\n"
    first, shown, second = re.split(r"\n\d+ tokens [^\n]*|Thinking is shown\.", outcome.err)[:3]
    assert re.fullmatch(r"thought for \d+ tokens \(/show prints it\)", first)
    assert shown.strip() == "Two and\ntwo."
    assert second.strip() == "Two and\ntwo."


def test_show_without_thinking(talk: Any) -> None:
    assert "no thinking" in talk([THINKS], stdin="/show\n")[0].err


@pytest.mark.parametrize("mode", ["both", "hard", "soft"])
def test_a_budget(talk: Any, mode: str) -> None:
    text = "<seed:think>" + "so on " * 300 + "</seed:think>\nFour.<seed:eos>"
    outcome, model = talk([text], "--thinking-budget", "64", "--budget-mode", mode)
    num_thinking = int(re.findall(r"\((\d+) of them thinking\)", outcome.err)[0])
    assert (num_thinking <= 72) is (mode != "soft")
    assert ("the thinking budget, which is 64" in model.prompts[0]) is (mode != "hard")
    assert outcome.out.strip().endswith("Four.")


@pytest.mark.parametrize("command", ["chat", "generate"])
@pytest.mark.parametrize("budget", ["512", "2048", "16384"])
def test_a_budget_leaves_room_for_the_answer(talk: Any, monkeypatch: Any, command: str, budget: str) -> None:
    """The default of --max-new-tokens grows with the budget, as the examples of the help have it."""
    seen: list[int] = []
    monkeypatch.setattr(
        "seed_oss.models.chat.prepare_turn",
        lambda *a, **given: seen.append(given["max_new_tokens"]) or turn(*a, **given),
    )
    words = ["Hello"] if command == "generate" else []
    outcome, _ = talk([THINKS], "--thinking-budget", budget, *words, command=command)
    assert (outcome.code, outcome.out.strip()) == (0, "Four.")
    assert seen == [max(int(budget) + 512, 2048 if command == "chat" else 512)]


@pytest.mark.parametrize("command", ["chat", "generate"])
def test_a_budget_for_a_model_that_does_not_think(run: Run, checkpoint: Path, command: str) -> None:
    words = ["Hello"] if command == "generate" else []
    outcome = run(command, "--model", checkpoint, "--thinking-budget", "64", *words, stdin="Hello\n")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith("error: ")
    assert "does not think in the Seed format" in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--budget-mode", "hard"], "give --thinking-budget too"),
        (["--thinking-budget", "2048", "--max-new-tokens", "2048"], "leaves nothing of --max-new-tokens 2048"),
        (["--thinking-budget", "99999999999"], "allowed: an integer from 0 to 2147483647"),
        (["--thinking-budget", "-2"], "--thinking-budget"),
        (["--yes"], "give --tools too"),
    ],
)
def test_wrong_options(run: Run, arguments: list[str], part: str) -> None:
    outcome = run("chat", "--model", "no-such-model", *arguments)
    assert outcome.code == 2
    assert part in " ".join(outcome.err.replace("│", " ").split())


def test_generate_writes_only_the_answer_to_stdout(talk: Any) -> None:
    outcome, model = talk([THINKS], "--thinking-budget", "100", "Hello", command="generate")
    assert (outcome.code, outcome.out) == (0, "Four.\n")
    assert outcome.err.startswith("Two and\ntwo.\n")
    assert "the thinking budget, which is 100" in model.prompts[0]


def test_generate_raw_hides_nothing(talk: Any) -> None:
    outcome, _ = talk(
        [f"so <seed:think>a</seed:think> {call('f', a=1)} b<seed:eos>"], "--raw", "Hi", command="generate"
    )
    assert outcome.out == f"so <seed:think>a</seed:think> {call('f', a=1)} b\n"


def test_a_model_commands_no_terminal(talk: Any) -> None:
    outcome, _ = talk(["<seed:think>\x1b[2J[red]x</seed:think>\n\x1b]0;t\x07[bold]y<seed:eos>"])
    assert "\x1b" not in outcome.out + outcome.err
    assert "]0;t[bold]y" in outcome.out
    assert "[2J[red]x" in outcome.err


def test_a_tool_runs_with_yes(talk: Any, tools: Path) -> None:
    outcome, model = talk([ADDS, DONE], "--tools", tools, "--yes")
    assert outcome.out == "Let me see.\nIt is 5.\n\n"
    assert "tool call: add\n  a = 2\n  b = 3\nadding\n  5\n" in outcome.err
    assert "def add(a: int,b: int):" in model.prompts[0]
    assert call("add", a=2, b=3) in model.prompts[1]
    assert "<seed:bos>tool\n5<seed:eos>" in model.prompts[1]


def test_without_a_terminal_nothing_runs(talk: Any, tools: Path) -> None:
    outcome, model = talk([ADDS, DONE], "--tools", tools)
    assert "<seed:bos>tool\nNot run: nobody is there to allow it.<seed:eos>" in model.prompts[1]
    assert "adding" not in outcome.err


def test_no(talk: Any, tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = consenting(monkeypatch, Consent.no)
    outcome, model = talk([ADDS, DONE], "--tools", tools)
    assert [one.parsed_arguments() for one in asked] == [{"a": 2, "b": 3}]
    assert "Not run: the user refused." in model.prompts[1]
    assert "adding" not in outcome.err


def test_yes_asks_again_and_always_does_not(talk: Any, tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = consenting(monkeypatch, Consent.yes, Consent.always, Consent.no)
    other = f"\n{call('read', name='x')}<seed:eos>"
    outcome, _ = talk([ADDS, ADDS, ADDS, other, DONE], "--tools", tools)
    assert [one.name for one in asked] == ["add", "add", "read"]
    assert outcome.err.count("adding") == 3


@pytest.mark.parametrize(
    ("written", "result"),
    [
        (call("leave"), "Error: SystemExit: 3"),
        (call("read", name="no-such-file"), "Error: FileNotFoundError: "),
        (call("odd"), "Error: TypeError: Object of type object is not JSON"),
        (call("stop"), "Cancelled by the user while it ran."),
        (call("subtract", a=1), "Error: there is no tool 'subtract'; there are: add, read"),
        (call("add", a="two"), "Error: "),
        (call("add", b=2), "Error: add needs the parameter 'a'"),
        (
            "<seed:tool_call>\nadd(1, 2)\n</seed:tool_call>",
            "Error: A tool call was not run: there is no function in it",
        ),
        (
            "<seed:tool_call>\n<function=add>\n<parameter=a>1",
            "Error: The call of 'add' was not run: it was not written",
        ),
    ],
)
def test_what_goes_wrong_is_told_to_the_model(talk: Any, tools: Path, written: str, result: str) -> None:
    outcome, model = talk([f"<seed:think>So.</seed:think>\n{written}<seed:eos>", DONE], "--tools", tools, "--yes")
    assert outcome.code == 0
    assert f"<seed:bos>tool\n{result}" in model.prompts[1]
    assert "It is 5." in outcome.out


def test_rounds_are_bounded(talk: Any, tools: Path) -> None:
    outcome, model = talk([ADDS], "--tools", tools, "--yes", stdin="one\n")
    assert outcome.err.count("adding") == 8
    assert len(model.prompts) == 9
    assert "that is the limit of one turn" in outcome.err


def test_ctrl_c_at_the_question_ends_the_turn(talk: Any, tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    consenting(monkeypatch, KeyboardInterrupt)
    outcome, model = talk(
        [f"{ADDS.removesuffix('<seed:eos>')}{call('add', a=1)}<seed:eos>", DONE], "--tools", tools, stdin="one\ntwo\n"
    )
    assert "stopped; " in outcome.err
    assert "It is 5." in outcome.out
    assert model.prompts[1].count("<seed:bos>tool\nNot run: the user stopped the answer.<seed:eos>") == 2


def test_long_results_are_cut(talk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool_runner, "MAX_RESULT_LEN", 10)
    file = tmp_path / "tools.py"
    file.write_text("def add(a: int, b: int) -> str:\n    return 'x' * 100 + chr(0xd800)")
    _, model = talk([ADDS, DONE], "--tools", file, "--yes")
    assert "<seed:bos>tool\nxxxxxxxxxx\n... cut after 10 of 101 characters<seed:eos>" in model.prompts[1]


ERRORS = """
class Mute(Exception):
    def __str__(self) -> str:
        raise SystemExit("no")


def add(a: int, b: int) -> str:
    'Fail.'
    raise Mute()


def read() -> str:
    'Fail at length.'
    raise ValueError("y" * 100 + chr(0xd800))
"""


def test_what_a_tool_raises_is_cut_and_read_safely(talk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool_runner, "MAX_RESULT_LEN", 60)
    file = tmp_path / "tools.py"
    file.write_text(ERRORS)
    outcome, model = talk([ADDS, f"\n{call('read')}<seed:eos>", DONE], "--tools", file, "--yes")
    assert outcome.code == 0
    assert "<seed:bos>tool\nError: Mute, whose text cannot be read (SystemExit)<seed:eos>" in model.prompts[1]
    cut = f"Error: ValueError: {'y' * 41}\n... cut after 60 of 120 characters"
    assert f"<seed:bos>tool\n{cut}<seed:eos>" in model.prompts[2]


def test_tools_need_a_template_that_shows_them(run: Run, checkpoint: Path, tools: Path) -> None:
    outcome = run("chat", "--model", checkpoint, "--tools", tools, stdin="Hello\n")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "shows the model no tools" in outcome.err


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.py", "1 / 0", "cannot be loaded: ZeroDivisionError"),
        ("a.py", "import sys\nsys.exit()", "cannot be loaded: SystemExit"),
        ("a.py", "def", "cannot be loaded: SyntaxError"),
        ("a.py", "x = 1", "defines no function"),
        ("a.txt", "x = 1", "must end in .py"),
        ("a.py", "def f(a): pass", r"the parameter 'a' of f\(\) has no type hint"),
    ],
)
def test_files_that_are_no_tools(tmp_path: Path, name: str, text: str, message: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        load_tools(file)
    with pytest.raises(MissingFileError, match="needs a Python file"):
        load_tools(tmp_path / "missing.py")


def test_a_card_shows_what_would_run(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = json.dumps({"path": "a\n\u202e\x1b[2Jb", "n": "é"})
    AnswerView(PlainPaper()).show_card(ToolCall("1", "rm\u200b", arguments))
    assert capsys.readouterr().err == 'tool call: rm\\u200b\n  path = "a\\n\\u202e\\u001b[2Jb"\n  n = "é"\n'


@pytest.mark.parametrize(
    "blank", [*"\u3164\uffa0\u115f\u1160\u2800\u0301\u180b\ufe0f\u034f\U000e0100\u00ad\u2003\u0488"]
)
def test_what_is_not_seen_is_spelled_out(blank: str) -> None:
    assert visible(f"a{blank}b") == f"a{blank.encode('unicode_escape').decode()}b"


@pytest.mark.parametrize("text", ["plain é", "日本語 ⠿", "नमस्ते", "ภาษาไทย ที่นี่", "שָׁלוֹם"])
def test_letters_are_shown_as_they_are(text: str) -> None:
    assert visible(text) == text
    assert visible("ท" + "\u0e48" * 9) == "ท" + "\u0e48" * 2 + "\\u0e48" * 7


@pytest.mark.parametrize("filler", [" ", "x", f"{'x' * 39} ", "\u3164", "語"])
@pytest.mark.parametrize("num_values", [1, 3, 100])
def test_a_card_fits_the_screen(filler: str, num_values: int) -> None:
    values = {f"command{n}": f"rm -rf ~ #{filler * 3000}ls" for n in range(num_values)}
    shown = call_card.lines({"cwd": "/", **values}, (80, 24))
    assert len(shown) <= 14
    assert max(map(cell_len, shown)) <= 76
    assert shown[0] == 'cwd = "/"'
    assert shown[1].startswith('command0 = "rm -rf ~ #')
    assert " more characters ... " in "".join(shown)
    assert any(line.endswith('ls"') for line in shown)
    assert (f"... {num_values + 1 - 13} more arguments ..." in shown) is (num_values == 100)


def test_a_long_call_can_be_shown_whole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(PlainPaper, "size", lambda self: (80, 24))
    answers = [Consent.show, Consent.no]
    runner = ToolRunner([PythonTool.of(say, "say")], AnswerView(PlainPaper()), lambda _: answers.pop(0))
    call = ToolCall("1", "say", json.dumps({"text": "x" * 3000}))
    results, _ = runner.results(AssistantMessage(tool_calls=(call,)))
    first, whole = capsys.readouterr().err.split("tool call: say\n")[1:]
    assert "more characters" in first
    assert "x" * 3000 in whole
    assert results[0]["content"] == "Not run: the user refused."


def say(text: str) -> str:
    """Say something."""
    return text
