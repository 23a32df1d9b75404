"""Which templates are taken for released ones."""

from pathlib import Path
from typing import Any

import pytest

from seed_oss.chat import template_kind
from seed_oss.chat.template_kind import SeedKind, hashed_kind, probes, seed_kind
from tests.chat.template_texts import TEMPLATES
from tests.seed_tokenizer import INITIAL_SEED_TEMPLATE, SEED_TEMPLATE, seed_tokenizer

_RELEASED = Path(__file__).parents[3] / "shared" / "golden" / "templates"
_USER = {"role": "user", "content": "q"}


@pytest.mark.parametrize("variant", ["current", "initial"])
def test_the_released_templates(variant: str) -> None:
    if not _RELEASED.is_dir():
        pytest.skip("the released templates are not here; they are not part of the project")
    template = (_RELEASED / f"{variant}.jinja").read_text(encoding="utf-8")
    assert seed_kind(template) == hashed_kind(template) == SeedKind(variant, exact=True)  # pyright: ignore[reportArgumentType]
    copy = template.replace("\n", "\r\n").replace("{# ", "{# my ")
    assert seed_kind(copy) == SeedKind(variant, exact=False)  # pyright: ignore[reportArgumentType]


def test_copies() -> None:
    assert seed_kind(SEED_TEMPLATE) == SeedKind("current", exact=False)
    assert seed_kind(INITIAL_SEED_TEMPLATE) == SeedKind("initial", exact=False)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("128 if budget <= 512", "128 if budget < 512"),
        ("else 1024 -%}", "else 2048 -%}"),
        ("必填", "required"),
        ('"boolean": "bool"', '"boolean": "boolean"'),
        ("message.content.strip() ~ ", "message.content ~ "),
        ('"\\n    Returns:"', '"\\n    Return:"'),
        ("value_1", "value"),
        ("{%- if budget == 0 -%}", "{%- if budget in [0, -2] -%}"),
    ],
)
def test_a_template_that_differs_anywhere_is_another_one(old: str, new: str) -> None:
    assert old in SEED_TEMPLATE
    assert seed_kind(SEED_TEMPLATE.replace(old, new)) is None


@pytest.mark.parametrize("template", ["", "<seed:bos>", "{{ raise_exception('<seed:bos>') }}", "{% <seed:bos>"])
def test_other_templates(template: str) -> None:
    assert seed_kind(template) is None


def test_templates_without_seed_markers_are_not_even_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_kind, "probes", lambda: pytest.fail("rendered"))
    for template in TEMPLATES.values():
        assert seed_kind(template + "{# not seen yet #}") is None


def test_the_answer_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    template = SEED_TEMPLATE + "{# kept #}"
    assert seed_kind(template) is not None
    monkeypatch.setattr(template_kind, "probes", lambda: pytest.fail("rendered twice"))
    assert seed_kind(template) is not None


def test_probes_are_many() -> None:
    assert len(list(probes())) > 40


def test_a_copy_that_reads_a_variable_of_the_call_is_rendered_as_it_is() -> None:
    template: Any = SEED_TEMPLATE + "{{ motto }}"
    tokenizer = seed_tokenizer(chat_template=template)
    assert tokenizer.apply_chat_template([_USER], tokenize=False).endswith("q<seed:eos>")
    assert tokenizer.apply_chat_template([_USER], tokenize=False, motto="Be.").endswith("q<seed:eos>Be.")
    assert tokenizer.apply_chat_template([_USER], tokenize=False, unread="Be.").endswith("q<seed:eos>")
