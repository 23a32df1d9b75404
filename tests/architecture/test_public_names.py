"""The names users rely on stay: add, never rename or remove."""

import importlib
import inspect

import pytest

import seed_oss
from tests.architecture.public_names import FROZEN, MODULES, exported, lines

# The names that are public by design, as far as they are built
DESIGNED = {
    *("SeedOssConfig", "SeedOssPreTrainedModel", "SeedOssModel", "SeedOssForCausalLM"),
    *("SeedOssForSequenceClassification", "SeedOssForTokenClassification", "SeedOssForQuestionAnswering"),
    *("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification"),
    *("AutoModelForTokenClassification", "AutoModelForQuestionAnswering", "AutoTokenizer", "SeedOssTokenizer"),
    *("GenerationConfig", "DynamicCache", "StaticCache", "TextStreamer", "TextIteratorStreamer"),
    *("LogitsProcessor", "LogitsProcessorList", "StoppingCriteria", "StoppingCriteriaList", "set_seed"),
}


def test_nothing_frozen_changed() -> None:
    frozen = [line for line in FROZEN.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    now = list(lines())
    gone = [line for line in frozen if line not in now]
    added = [line for line in now if line not in frozen]
    assert not gone, "renamed, removed or with other arguments:\n" + "\n".join(gone)
    assert not added, "new: freeze it with python -m tests.architecture.public_names:\n" + "\n".join(added)


def test_every_designed_name_is_there() -> None:
    assert set(seed_oss.__all__) >= DESIGNED
    assert all(hasattr(seed_oss, name) for name in DESIGNED)


@pytest.mark.parametrize("module_name", MODULES)
def test_exported_names_exist(module_name: str) -> None:
    module = importlib.import_module(module_name)
    assert [name for name in exported(module_name) if not hasattr(module, name)] == []


def test_dir_lists_the_public_names() -> None:
    assert set(seed_oss.__all__) <= set(dir(seed_oss))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="SeedOssForChess"):
        _ = seed_oss.SeedOssForChess  # type: ignore[attr-defined]


def test_an_auto_tokenizer_is_the_tokenizer() -> None:
    assert seed_oss.AutoTokenizer is seed_oss.SeedOssTokenizer


def test_public_names_load_from_where_type_checkers_find_them() -> None:
    source = inspect.getsource(seed_oss)
    typed = {line.split(" as ")[-1].strip() for line in source.splitlines() if " import " in line and " as " in line}
    assert set(seed_oss.__all__) - {"__version__"} == typed
