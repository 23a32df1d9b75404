"""`seed-oss generate`."""

from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from seed_oss import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from seed_oss.cli.loading import Loaded
from seed_oss.cli.options import SamplingOptions
from tests.cli.conftest import Run, make_checkpoint

SHORT = ("--max-new-tokens", "8")


def expected(folder: Path, prompt: str, *, chat: bool, system: str | None = None, **settings: Any) -> str:
    """The same answer through the Python API."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    if chat:
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": prompt})
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    else:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    result = model.generate(ids, **{"max_new_tokens": 8, **settings})
    return tokenizer.decode(result[0, ids.shape[1] :].tolist(), skip_special_tokens=True)


def test_the_answer_is_the_one_of_the_python_api(run: Run, checkpoint: Path):
    outcome = run("generate", "--model", checkpoint, *SHORT, "What is it?")
    assert outcome.code == 0
    assert outcome.out.rstrip("\n") == expected(checkpoint, "What is it?", chat=True).rstrip("\n")
    last_line = outcome.err.splitlines()[-1]
    assert last_line.startswith("8 tokens, ")
    assert " tokens/s" in last_line


def test_raw_continues_the_text(run: Run, checkpoint: Path):
    outcome = run("generate", "--model", checkpoint, "--raw", *SHORT, "What is it?")
    assert outcome.out.rstrip("\n") == expected(checkpoint, "What is it?", chat=False).rstrip("\n")


def test_a_checkpoint_without_template_continues_the_text(run: Run, plain_checkpoint: Path):
    outcome = run("generate", "-m", plain_checkpoint, *SHORT, "The capital")
    assert outcome.out.rstrip("\n") == expected(plain_checkpoint, "The capital", chat=False).rstrip("\n")


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_the_prompt_from_stdin(run: Run, checkpoint: Path, arguments: list[str]):
    outcome = run("generate", "--model", checkpoint, *SHORT, *arguments, stdin="two\nlines: ü\n")
    assert outcome.out.rstrip("\n") == expected(checkpoint, "two\nlines: ü", chat=True).rstrip("\n")


def test_a_system_message(run: Run, checkpoint: Path):
    outcome = run("generate", "--model", checkpoint, "--system", "Be brief.", *SHORT, "Hello")
    assert outcome.out.rstrip("\n") == expected(checkpoint, "Hello", chat=True, system="Be brief.").rstrip("\n")


def test_sampling_options_reach_generate(run: Run, checkpoint: Path):
    given = ("--temperature", "3", "--top-k", "0", "--min-p", "0.01", "--seed", "7", "--repetition-penalty", "1.5")
    outcome = run("generate", "--model", checkpoint, *given, *SHORT, "Hello")
    settings = {"temperature": 3.0, "top_k": 0, "min_p": 0.01, "seed": 7, "repetition_penalty": 1.5, "do_sample": True}
    assert outcome.out.rstrip("\n") == expected(checkpoint, "Hello", chat=True, **settings).rstrip("\n")
    assert outcome.out != run("generate", "--model", checkpoint, *SHORT, "Hello").out


def test_temperature_0_is_greedy(run: Run, checkpoint: Path):
    greedy = run("generate", "--model", checkpoint, "--greedy", *SHORT, "Hello")
    assert run("generate", "--model", checkpoint, "--temperature", "0", *SHORT, "Hello").out == greedy.out


def test_advice_of_the_checkpoint_is_followed(run: Run, tmp_path: Path):
    """The released checkpoints advise a temperature and do not say do_sample."""
    folder = make_checkpoint(tmp_path)
    GenerationConfig(temperature=3.0, top_k=0, pad_token_id=1).save_pretrained(folder)
    sampled = run("generate", "--model", folder, "--seed", "7", *SHORT, "Hello")
    settings = {"temperature": 3.0, "top_k": 0, "do_sample": True, "seed": 7}
    assert sampled.out.rstrip("\n") == expected(folder, "Hello", chat=True, **settings).rstrip("\n")
    greedy = run("generate", "--model", folder, "--greedy", *SHORT, "Hello")
    assert greedy.out.rstrip("\n") == expected(folder, "Hello", chat=True, do_sample=False).rstrip("\n")


@pytest.mark.parametrize(
    ("files", "options", "sampled"),
    [
        ({}, {}, False),
        ({"temperature": 1.1, "top_p": 0.95}, {}, True),
        ({"temperature": 1.1, "do_sample": False}, {}, False),
        ({"do_sample": True}, {}, True),
        ({"do_sample": True}, {"sample": False}, False),
        ({"do_sample": True}, {"temperature": 0.0}, False),
        ({}, {"top_p": 0.9}, True),
        ({}, {"seed": 3}, True),
        ({}, {"sample": True}, True),
        ({}, {"repetition_penalty": 1.2}, False),
    ],
)
def test_when_tokens_are_drawn(files: dict[str, Any], options: dict[str, Any], sampled: bool):
    nothing = dict.fromkeys(field.name for field in fields(SamplingOptions))
    given = SamplingOptions(**{**nothing, "max_new_tokens": 5, **options})
    model = SimpleNamespace(generation_config=GenerationConfig(**files))
    settings = Loaded(model, None).settings(given)  # type: ignore[arg-type]
    assert settings["do_sample"] is sampled
    assert {name for name, value in options.items() if value} - {"sample"} <= settings.keys()


def test_dtype_and_threads(run: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    seen: dict[str, Any] = {}
    monkeypatch.setattr("torch.set_num_threads", lambda number: seen.setdefault("threads", number))
    original = AutoModelForCausalLM.from_pretrained

    def remember(*arguments: Any, **kwargs: Any) -> Any:
        seen["model"] = original(*arguments, **kwargs)
        return seen["model"]

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", remember)
    given = ("--dtype", "bfloat16", "--threads", "3", "--device", "cpu")
    assert run("generate", "--model", checkpoint, *given, *SHORT, "Hello").code == 0
    assert seen["threads"] == 3
    assert (str(seen["model"].dtype), seen["model"].device.type) == ("torch.bfloat16", "cpu")


def test_one_token_has_no_speed(run: Run, checkpoint: Path):
    assert run("generate", "--model", checkpoint, "--max-new-tokens", "1", "Hi").err.splitlines()[-1] == "1 token"


WRONG_USE = [
    (["--temperature", "-1", "x"], "--temperature"),
    (["--top-p", "1.5", "x"], "--top-p"),
    (["--max-new-tokens", "0", "x"], "--max-new-tokens"),
    (["--dtype", "float8", "x"], "--dtype"),
    (["--sample", "--temperature", "0", "x"], "contradict each other"),
    (["--greedy", "--top-k", "5", "x"], "--top-k would have no effect"),
    (["--no-such-option", "x"], "--no-such-option"),
    (["--device", "gpu", "x"], "'gpu' is not here; this machine has auto, cpu"),
    (["x", "y"], "y"),
    ([""], "the prompt is empty"),
    ([], "the prompt is empty"),
]


@pytest.mark.parametrize(("arguments", "part"), WRONG_USE)
def test_wrong_use_is_exit_code_2(run: Run, checkpoint: Path, arguments: list[str], part: str):
    outcome = run("generate", "--model", checkpoint, *arguments)
    assert outcome.code == 2
    assert part in " ".join(outcome.err.split())
    assert outcome.out == ""


def test_a_terminal_without_a_prompt(run: Run, checkpoint: Path):
    outcome = run("generate", "--model", checkpoint, stdin_is_terminal=True)
    assert outcome.code == 2
    assert "no prompt; give it in quotes" in outcome.err


FAILURES = [
    (["--model", "{missing}", "x"], "is not a folder here"),
    (["--model", "{plain}", "--chat", "x"], "this checkpoint has no chat template; use --raw"),
    (["--model", "{chat}", "--raw", "--system", "s", "x"], "--system needs a conversation"),
    (["--model", "{chat}", "--repetition-penalty", "0", "x"], "repetition_penalty is 0"),
]


@pytest.mark.parametrize(("arguments", "part"), FAILURES)
def test_a_failure_is_one_line_and_exit_code_1(
    run: Run, checkpoint: Path, plain_checkpoint: Path, arguments: list[str], part: str
):
    places = {"missing": "no-such-model", "plain": plain_checkpoint, "chat": checkpoint}
    outcome = run("generate", *(argument.format(**places) for argument in arguments))
    assert outcome.code == 1
    assert part in outcome.err
    errors = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in outcome.err


def test_stdin_that_is_no_text(run: Run, checkpoint: Path):
    outcome = run("generate", "--model", checkpoint, stdin=b"ab\xff")
    assert (outcome.code, outcome.err) == (1, "error: the text on stdin is not UTF-8 (byte 2); convert it first\n")


def test_debug_shows_where_an_error_comes_from(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    from seed_oss.cli import main
    from seed_oss.errors import MissingFileError

    monkeypatch.setenv("SEED_OSS_DEBUG", "1")
    monkeypatch.setattr("sys.argv", ["seed-oss", "generate", "--model", "no-such-model", "x"])
    monkeypatch.setattr("warnings.showwarning", None)
    with pytest.raises(MissingFileError):
        main()
