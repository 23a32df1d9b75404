"""apply_chat_template beside transformers', with templates of our own and, where present, the released ones."""

import json
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seed_oss.chat import SeedOssTokenizer
from seed_oss.chat.template_process import SHARED
from seed_oss.errors import InputError, TemplateError
from tests.chat.template_texts import CONVERSATIONS, TEMPLATES, TOOLS
from tests.chat.tokenizer_factory import write_tiny_tokenizer
from tests.seed_tokenizer import seed_tokenizer

transformers = pytest.importorskip("transformers")
_GOLDEN = Path(__file__).parents[3] / "shared" / "golden"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_tokenizer(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def ours(folder: Path) -> SeedOssTokenizer:
    return SeedOssTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return transformers.PreTrainedTokenizerFast.from_pretrained(folder)


def _outcome(render: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return render(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - jinja2 raises what the template raises
        return type(error).__mro__[-3:] and "error"


@pytest.mark.parametrize("name", list(TEMPLATES))
@pytest.mark.parametrize("chat", list(CONVERSATIONS))
def test_text_as_in_transformers(ours: SeedOssTokenizer, theirs: Any, name: str, chat: str) -> None:
    for kwargs in ({}, {"tools": TOOLS}, {"add_generation_prompt": True}, {"enable_thinking": False, "tools": []}):
        call = {"chat_template": TEMPLATES[name], "tokenize": False, **kwargs}
        expected = _outcome(theirs.apply_chat_template, CONVERSATIONS[chat], **call)
        assert _outcome(ours.apply_chat_template, CONVERSATIONS[chat], **call) == expected


def test_ids_as_in_transformers(ours: SeedOssTokenizer, theirs: Any) -> None:
    chats = [CONVERSATIONS["one"], CONVERSATIONS["system"]]
    for kwargs in (
        {},
        {"add_generation_prompt": True, "return_dict": False},
        {"padding": True, "tokenizer_kwargs": {"padding_side": "left"}},
        {"padding": "max_length", "max_length": 50, "truncation": True},
    ):
        for chat in (chats, chats[0]):
            found, expected = (t.apply_chat_template(chat, **kwargs) for t in (ours, theirs))
            assert (dict(found) if isinstance(found, dict | type(ours(""))) else found) == (
                dict(expected) if not isinstance(expected, list) else expected
            )


def test_tensors(ours: SeedOssTokenizer) -> None:
    encoded = ours.apply_chat_template(CONVERSATIONS["one"], add_generation_prompt=True, return_tensors="pt")
    assert encoded.input_ids.dtype == torch.int64
    assert encoded.input_ids.shape == encoded.attention_mask.shape == (1, len(encoded.input_ids[0]))
    ids = ours.apply_chat_template(CONVERSATIONS["one"], return_tensors="np", return_dict=False)
    assert isinstance(ids, np.ndarray)


@pytest.mark.parametrize("name", ["chatml", "headers", "thinking"])
def test_continuing_the_final_message(ours: SeedOssTokenizer, theirs: Any, name: str) -> None:
    for content in ("Sure, ", "Sure,", " {\n", ""):
        chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": content}]
        call = {"chat_template": TEMPLATES[name], "tokenize": False, "continue_final_message": True}
        found = ours.apply_chat_template(chat, **call)
        assert found == theirs.apply_chat_template(chat, **call)
        assert content.strip() in found
    assert chat[-1] == {"role": "assistant", "content": ""}  # what the caller gave is left alone


def test_continuing_the_reasoning(ours: SeedOssTokenizer, theirs: Any) -> None:
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning_content": "let me"}]
    call = {
        "chat_template": TEMPLATES["thinking"],
        "tokenize": False,
        "continue_final_message": "reasoning_content",
    }
    found = ours.apply_chat_template(chat, **call)
    assert found == theirs.apply_chat_template(chat, **call)
    assert found.endswith("let me")


def test_continuing_what_the_template_drops_raises(ours: SeedOssTokenizer) -> None:
    with pytest.raises(TemplateError, match="continue_final_message"):
        ours.apply_chat_template(
            CONVERSATIONS["one"], chat_template="{{ bos_token }}", tokenize=False, continue_final_message=True
        )
    with pytest.raises(TemplateError, match="needs text in 'content'"):
        ours.apply_chat_template([{"role": "user"}], tokenize=False, continue_final_message=True)


def test_golden_renderings_of_the_released_templates(ours: SeedOssTokenizer) -> None:
    if not (_GOLDEN / "templates").is_dir():
        pytest.skip("the released templates are not here; they are not part of the project")
    templates = {path.stem: path.read_text(encoding="utf-8") for path in (_GOLDEN / "templates").glob("*.jinja")}
    lines = (_GOLDEN / "chat_template.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 250
    for line in map(json.loads, lines):
        found = ours.apply_chat_template(
            line["messages"], chat_template=templates[line["variant"]], tokenize=False, **line["kwargs"]
        )
        assert found == line["expected"]


def test_templates_by_name(tmp_path: Path, theirs: Any) -> None:
    named = {"default": "D{{ messages[0].content }}", "tool_use": "T", "other": "O"}
    write_tiny_tokenizer(tmp_path, chat_template=None, chat_template_list=None)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["chat_template"] = [{"name": name, "template": text} for name, text in named.items()]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = SeedOssTokenizer.from_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path / "saved")
    for folder in (tmp_path, tmp_path / "saved"):
        tokenizer = SeedOssTokenizer.from_pretrained(folder)
        assert tokenizer.chat_template == named == theirs.from_pretrained(folder).chat_template
        chat = [{"role": "user", "content": "x"}]
        assert tokenizer.apply_chat_template(chat, tokenize=False) == "Dx"
        assert tokenizer.apply_chat_template(chat, tools=TOOLS, tokenize=False) == "T"
        assert tokenizer.apply_chat_template(chat, chat_template="other", tokenize=False) == "O"
    tokenizer.chat_template = {"a": "1", "b": "2"}
    with pytest.raises(TemplateError, match="a, b"):
        tokenizer.get_chat_template()


def test_the_file_goes_before_the_setting(tmp_path: Path) -> None:
    write_tiny_tokenizer(tmp_path, chat_template="from the file")
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": "from the setting"}))
    assert SeedOssTokenizer.from_pretrained(tmp_path).chat_template == "from the file"
    assert SeedOssTokenizer.from_pretrained(tmp_path, chat_template="given").chat_template == "given"
    (tmp_path / "chat_template.jinja").unlink()
    assert SeedOssTokenizer.from_pretrained(tmp_path).chat_template == "from the setting"


@pytest.mark.parametrize(
    ("conversation", "message"),
    [
        ([], "at least one message, got an empty one"),
        ("hello", "at least one message, got a str"),
        ({"role": "user"}, "at least one message"),
        ([[{"role": "user", "content": "x"}], []], "conversation 1 of the batch"),
        (["hello"], r"messages\[0\] must be a mapping"),
        ([{"role": "user", "content": object()}], r"messages\[0\]\['content'\] is a object"),
        ([{"role": "user", "content": b"x"}], "is a bytes"),
        ([{"role": "user"}], "cannot be rendered"),
    ],
)
def test_bad_conversations_are_named(ours: SeedOssTokenizer, conversation: Any, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        ours.apply_chat_template(conversation)


@pytest.mark.parametrize("depth", [1_500, 100_000])
def test_deep_messages_are_refused(ours: SeedOssTokenizer, depth: int) -> None:
    nested: list[Any] = []
    for _ in range(depth):
        nested = [nested]
    with pytest.raises(TemplateError, match="deep"):
        ours.apply_chat_template([{"role": "user", "content": nested}])
    nested.append(nested)
    with pytest.raises(TemplateError, match="deep"):
        ours.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False, loop=nested)


def test_arguments_that_do_not_go_together(ours: SeedOssTokenizer) -> None:
    chat = CONVERSATIONS["one"]
    with pytest.raises(InputError, match="exclude each other"):
        ours.apply_chat_template(chat, add_generation_prompt=True, continue_final_message=True)
    with pytest.raises(TemplateError, match=r"tools\[0\] must be a JSON schema"):
        ours.apply_chat_template(chat, tools=[print])


def test_preparing_starts_the_process(ours: SeedOssTokenizer) -> None:
    SHARED.close()
    ours.prepare_chat_template()
    assert SHARED.pid is not None
    assert ours.apply_chat_template(CONVERSATIONS["one"], tokenize=False)


def test_without_a_template(tmp_path: Path) -> None:
    tokenizer = SeedOssTokenizer.from_pretrained(write_tiny_tokenizer(tmp_path, chat_template=None))
    with pytest.raises(TemplateError, match="no chat template"):
        tokenizer.apply_chat_template(CONVERSATIONS["one"])


class Role(StrEnum):
    USER = "user"


class Level(IntEnum):
    HIGH = 3


@dataclass
class Message:
    role: Role
    content: str


def test_rich_objects_become_plain_data(ours: SeedOssTokenizer) -> None:
    template = "{{ messages[0].role + '|' + messages[0].content }} {{ level }} {{ number }} {{ pair }} {{ keys }}"
    found = ours.apply_chat_template(
        [Message(Role.USER, "x")],
        chat_template=template,
        tokenize=False,
        level=Level.HIGH,
        number=np.float32(0.5),
        pair=(1, True),
        keys={1: None},
    )
    assert found == "user|x 3 0.5 (1, True) {1: None}"


USER = [{"role": "user", "content": "x"}]


@pytest.mark.parametrize(
    "spelled",
    [
        {"enable_thinking": False},
        {"chat_template_kwargs": {"thinking_budget": 4096}},
        {"extra_body": {"thinking": {"type": "disabled"}}},
        {"thinking_token_budget": 1024},
    ],
)
def test_budgets_that_contradict_each_other(spelled: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="names different thinking budgets"):
        seed_tokenizer().apply_chat_template(USER, thinking_budget=512, tokenize=False, **spelled)


@pytest.mark.parametrize("spelled", [{"enable_thinking": True}, {"extra_body": {"thinking_budget": 512}}])
def test_budgets_that_agree(spelled: dict[str, Any]) -> None:
    tokenizer = seed_tokenizer()
    expected = tokenizer.apply_chat_template(USER, thinking_budget=512, tokenize=False)
    assert tokenizer.apply_chat_template(USER, thinking_budget=512, tokenize=False, **spelled) == expected


def test_messages_are_given_once() -> None:
    with pytest.raises(InputError, match="messages is given beside the conversation"):
        seed_tokenizer().apply_chat_template(USER, chat_template="{{ messages[0].content }}", messages=[])
