"""--response-format and --tool-choice, with a model that says given texts."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.cli.scripted_chat import scripted

TOOLS = '''
def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


def now() -> str:
    """The time."""
    return "noon"
'''
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
ADD = "<seed:tool_call>\n<function=add>\n<parameter=a>2</parameter>\n</function>\n</seed:tool_call>"
NOW = "<seed:tool_call>\n<function=now>\n</function>\n</seed:tool_call>"
SAYS_BOTH = f'<seed:think>So.</seed:think>\nIt is {ADD}{{"n": 4}}<seed:eos>'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tools.py").write_text(TOOLS)
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    wrapped = {"type": "json_schema", "json_schema": {"name": "four", "schema": SCHEMA}}
    (tmp_path / "wrapped.json").write_text(json.dumps(wrapped))
    return tmp_path


@pytest.fixture
def talk(run: Run, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command with a model that says these texts; gives the outcome and the model."""

    def go(texts: list[str], command: str, *arguments: str | Path, stdin: str = "Hello\n") -> Any:
        loaded = scripted(texts)
        monkeypatch.setattr(f"seed_oss.cli.{command}.load", lambda *_, **__: loaded)
        return run(command, *arguments, stdin=stdin), loaded.model

    return go


@pytest.mark.parametrize("command", ["generate", "chat"])
@pytest.mark.parametrize("name", ["schema.json", "wrapped.json"])
def test_a_schema_in_a_file(talk: Any, folder: Path, command: str, name: str) -> None:
    outcome, _ = talk([SAYS_BOTH], command, "--response-format", folder / name)
    assert outcome.code == 0
    assert json.loads(outcome.out) == {"n": 4}
    assert outcome.err.startswith("So.\n")


def test_any_object(talk: Any) -> None:
    outcome, _ = talk(
        ['<seed:think>So.</seed:think>\nyes [1] {"a": [1]}<seed:eos>'], "generate", "--response-format", "json"
    )
    assert json.loads(outcome.out) == {"a": [1]}


def test_text_that_goes_on_is_held_to_the_form_too(talk: Any, folder: Path) -> None:
    outcome, _ = talk(['no {"n": 4}<seed:eos>'], "generate", "--raw", "--response-format", folder / "schema.json", "Hi")
    assert (outcome.code, json.loads(outcome.out)) == (0, {"n": 4})


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_an_answer_that_is_cut_off_is_told(talk: Any, folder: Path, command: str) -> None:
    how = ("--response-format", folder / "schema.json", "--thinking-budget", "0", "--max-new-tokens", "7")
    outcome, _ = talk(['\n{"n": 444444444444<seed:eos>'], command, *how)
    assert outcome.code == 0
    assert outcome.out.strip().startswith('{"n"')
    assert "The answer was cut off after --max-new-tokens 7: it is not complete." in outcome.err


def test_required_is_the_first_answer_of_a_turn(talk: Any, folder: Path) -> None:
    done = "<seed:think>Now.</seed:think>\nIt is 3.<seed:eos>"
    texts = [f"<seed:think>So.</seed:think>\nNo. {ADD}<seed:eos>", done] * 2
    how = ("--tools", folder / "tools.py", "--yes", "--tool-choice", "required")
    outcome, model = talk(texts, "chat", *how, stdin="one\ntwo\n")
    assert outcome.out == "It is 3.\nIt is 3.\n\n"
    assert len(model.prompts) == 4
    assert model.prompts[3].count("<seed:bos>tool\n3<seed:eos>") == 2


def test_a_function_that_must_be_called(talk: Any, folder: Path) -> None:
    texts = [f"<seed:think>So.</seed:think>\n{ADD}\n{NOW}<seed:eos>", "<seed:think>Now.</seed:think>\nNoon.<seed:eos>"]
    outcome, model = talk(texts, "chat", "--tools", folder / "tools.py", "--yes", "--tool-choice", "now")
    assert "<seed:bos>tool\nnoon<seed:eos>" in model.prompts[1]
    assert "tool call: add" not in outcome.err
    assert outcome.out == "Noon.\n\n"


def test_none_calls_nothing(talk: Any, folder: Path) -> None:
    texts = [f"<seed:think>So.</seed:think>\n{ADD} Four.<seed:eos>"]
    outcome, model = talk(texts, "chat", "--tools", folder / "tools.py", "--yes", "--tool-choice", "none")
    assert "def add(" in model.prompts[0]
    assert (len(model.prompts), "tool call" in outcome.err) == (1, False)
    assert "Four." in outcome.out


def test_auto_with_a_form(talk: Any, folder: Path) -> None:
    how = (
        "--tools",
        folder / "tools.py",
        "--yes",
        "--tool-choice",
        "auto",
        "--response-format",
        folder / "schema.json",
    )
    outcome, model = talk([SAYS_BOTH, SAYS_BOTH.replace(ADD, "")], "chat", *how)
    assert json.loads(outcome.out) == {"n": 4}
    assert len(model.prompts) == 2
    assert "tool call: add\n  a = 2\n" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--tool-choice", "auto"], "there are none; give --tools too"),
        (["--tools", "tools.py", "--tool-choice", "sub"], "nor a function of --tools; there are add, now"),
    ],
)
def test_wrong_choices(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: Any, part: str) -> None:
    monkeypatch.chdir(folder)
    outcome = run("chat", "--model", "no-such-model", *arguments)
    assert outcome.code == 2
    told = " ".join(outcome.err.replace("│", " ").split())
    assert "--tool-choice" in told
    assert part in told


@pytest.mark.parametrize("command", [("generate", "Hi"), ("chat",)])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "form.json is not a file; --response-format needs 'json', or a file with a JSON schema"),
        ("{", "form.json is not valid JSON"),
        ('{"a": 1, "a": 2}', "stands twice"),
        ('{"type": NaN}', "NaN is not JSON"),
        (b"\xff{}", "not valid UTF-8"),
        (
            '{"type": "object", "properties": {"a": {"not": {}}}}',
            "form.json: schema.properties.a.not: the keyword 'not'",
        ),
        ('{"type": "json_schema"}', "form.json: response_format.json_schema has no schema"),
        ("3", "form.json: schema is 3"),
        ("[" * 70 + "]" * 70, "nested deeper than 64"),
    ],
)
def test_files_that_are_refused(
    run: Run, tmp_path: Path, command: tuple[str, ...], content: str | bytes | None, message: str
) -> None:
    file = tmp_path / "form.json"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    outcome = run(command[0], "--model", "no-such-model", "--response-format", file, *command[1:])
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (1, "", 1)
    assert outcome.err.startswith("error: ")
    assert message in outcome.err


def test_a_folder_is_no_schema(run: Run, tmp_path: Path) -> None:
    outcome = run("generate", "--model", "no-such-model", "--response-format", tmp_path, "Hi")
    assert (outcome.code, "is not a file" in outcome.err) == (1, True)


@pytest.mark.parametrize("command", [("generate", "Hi"), ("chat",)])
def test_without_the_package_nothing_is_loaded(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    outcome = run(command[0], "--model", "no-such-model", "--response-format", "json", *command[1:])
    assert outcome.code == 1
    assert "pip install 'seed-oss[grammar]'" in outcome.err


def test_what_cannot_be_enforced_is_told_before_the_conversation(talk: Any, tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text('{"type": "string", "const": 3}')
    outcome, model = talk(["a<seed:eos>"], "chat", "--response-format", tmp_path / "empty.json")
    assert outcome.code == 1
    assert "nsatisfiable" in outcome.err
    assert model.prompts == []
