"""examples/teach_budget.py: its rows say what is true, and a short training goes all the way."""

import importlib.util
import random
import re
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from seed_oss import SeedOssTokenizer
from seed_oss.chat.budget import BUDGET_SPENT, ThinkingBudget
from seed_oss.chat.control_tokens import END_REFLECT, END_THINK, REFLECT, THINK
from seed_oss.cli.tool_runner import load_tools
from tests.docs.pages import ROOT
from tests.docs.test_examples import run_example

COUNTS = re.compile(r"I have used (\d+) tokens, and there are (\d+) tokens remaining")


@pytest.fixture(scope="module")
def lesson() -> Iterator[ModuleType]:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("teach_budget", ROOT / "examples" / "teach_budget.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def tokenizer(lesson: ModuleType) -> SeedOssTokenizer:
    return lesson.make_tokenizer(random.Random(0))


@pytest.fixture(scope="module")
def rows(lesson: ModuleType, tokenizer: SeedOssTokenizer) -> list[Any]:
    return list(islice(lesson.seed_rows(random.Random(1), tokenizer), 60))


def ids_of(row: Any, lesson: ModuleType, tokenizer: SeedOssTokenizer) -> list[int]:
    return lesson.encode(row, tokenizer)[0].tolist()


def test_the_tokenizer_is_like_the_released_one(tokenizer: SeedOssTokenizer) -> None:
    assert (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert tokenizer.decode(tokenizer.encode("<seed:think>"), skip_special_tokens=True) == "<seed:think>"
    assert len(tokenizer) < 768


def test_reflections_state_true_counts(lesson: ModuleType, tokenizer: SeedOssTokenizer, rows: list[Any]) -> None:
    think, reflect, end = tokenizer.convert_tokens_to_ids([THINK.text, REFLECT.text, END_REFLECT.text])
    told: list[int] = []
    for row in rows:
        ids = ids_of(row, lesson, tokenizer)
        for place in [index for index, token in enumerate(ids) if token == reflect]:
            match = COUNTS.search(tokenizer.decode(ids[place : ids.index(end, place)]))
            if match:
                used = place - ids.index(think)
                assert (int(match[1]), int(match[2])) == (used, lesson.BUDGET - used)
                told.append(used)
    assert len(told) > 20
    assert all(128 <= used < 128 + 20 for used in told)


def test_cut_thoughts_keep_their_budget(lesson: ModuleType, tokenizer: SeedOssTokenizer, rows: list[Any]) -> None:
    think, reflect = tokenizer.convert_tokens_to_ids([THINK.text, REFLECT.text])
    cut = [row for row in rows if row.budget != lesson.BUDGET]
    assert cut
    for row in cut:
        ids = ids_of(row, lesson, tokenizer)
        used = ids.index(reflect) - ids.index(think) - 1
        assert row.budget <= used <= row.budget + ThinkingBudget(row.budget).grace
        assert f"{BUDGET_SPENT}{END_REFLECT}\n{END_THINK}\nSo far it is " in row.messages[1]["content"]


def test_labels_are_what_the_assistant_wrote(lesson: ModuleType, tokenizer: SeedOssTokenizer, rows: list[Any]) -> None:
    for row in rows:
        ids, labels = lesson.encode(row, tokenizer)
        learned = labels != lesson.IGNORED
        assert torch.equal(ids[learned], labels[learned])
        assert tokenizer.decode(ids[learned]) == "".join(written(message) for message in row.messages)


def written(message: dict[str, Any]) -> str:
    """An assistant's turn as the template writes it, without its head; nothing for others."""
    if message["role"] != "assistant":
        return ""
    thought, content = message.get("reasoning_content", "").strip(), message.get("content", "")
    calls = [call["function"] for call in message.get("tool_calls", [])]
    parts = [f"{THINK}{thought}{END_THINK}"] if thought else []
    parts += [content] if content else []
    for call in calls:
        values = "".join(f"<parameter={key}>{value}</parameter>\n" for key, value in call["arguments"].items())
        parts.append(f"<seed:tool_call>\n<function={call['name']}>\n{values}</function>\n</seed:tool_call>")
    return "\n".join(parts) + "<seed:eos>"


def test_what_is_asked_in_the_end_was_never_trained_on(lesson: ModuleType) -> None:
    rng = random.Random(2)
    for draw in (lesson.draw_product, lambda rng, **kind: lesson.draw_sum(rng, lesson.LONG, **kind)):
        asked = {draw(rng, held_out=True).question for _ in range(200)}
        assert not asked & {draw(rng).question for _ in range(2000)}


def test_two_conversations_are_learned_by_heart(lesson: ModuleType, tokenizer: SeedOssTokenizer) -> None:
    """Thought, reflection, call and answer come back through chat, and a smaller budget holds."""
    rng = random.Random(3)
    adding, product = lesson.draw_sum(rng, (13, 13)), lesson.draw_product(rng)
    taught = [lesson.reflecting(adding, lambda text: len(tokenizer.encode(text))), lesson.calling(product)]
    torch.manual_seed(0)
    model = lesson.make_model(tokenizer)
    losses = lesson.train(model, tokenizer, [(60, iter(taught * 60))], num_rows=2)
    assert losses[-1] < losses[0] / 20

    pupil = lesson.Pupil(model.eval(), tokenizer, max_new_tokens=512)
    (thought,) = pupil.solve(adding.question)
    assert thought.message.reasoning == taught[0].messages[1]["reasoning_content"].strip()
    assert thought.message.content == adding.answer
    (reflection,) = thought.message.reflections
    assert reflection.used + reflection.remaining == lesson.BUDGET

    (cut,) = pupil.solve(adding.question, budget=64)
    assert 64 <= cut.usage.reasoning_tokens <= 64 + ThinkingBudget(64).grace
    assert BUDGET_SPENT in cut.message.reasoning
    assert cut.message.content

    called, answer = pupil.solve(product.question)
    (call,) = called.message.tool_calls
    assert (call.name, call.parsed_arguments()) == ("multiply", product.arguments)
    assert answer.message.content == product.answer


def test_a_bad_pupil_keeps_its_budget_too(lesson: ModuleType, tokenizer: SeedOssTokenizer, rows: list[Any]) -> None:
    torch.manual_seed(0)
    model = lesson.make_model(tokenizer)
    lesson.train(model, tokenizer, [(8, iter(rows * 2))], num_rows=2)
    pupil = lesson.Pupil(model.eval(), tokenizer, max_new_tokens=160)
    for budget in (0, 24, 48):
        answer = pupil.ask(list(rows[0].messages[:1]), budget)
        assert answer.usage.reasoning_tokens <= budget + ThinkingBudget(budget).grace
        assert answer.message.content or answer.message.tool_calls


def test_the_script_from_beginning_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lesson: ModuleType
) -> None:
    run_example("teach_budget.py", tmp_path, tmp_path, monkeypatch)
    out = capsys.readouterr().out
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", out)]
    assert losses[-1] < losses[0]
    assert len(re.findall(r"^budget \d+: \d of 1 right", out, re.MULTILINE)) == 3
    saved = {path.name for path in (tmp_path / "out").iterdir()}
    assert saved >= {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "multiply.py"}
    (tool,) = load_tools(tmp_path / "out" / "multiply.py")
    assert tool.definition == lesson.CALCULATOR.definition
