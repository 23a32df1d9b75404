"""Rows of a chat prompt: masks of what the assistant wrote, cutting, padding, tensors, going on with a message."""

from typing import Any

import numpy as np
import pytest
import torch

from seed_oss.chat import SeedOssTokenizer, render
from seed_oss.chat.budget import ThinkingBudget
from seed_oss.chat.prompts import in_spans
from seed_oss.errors import InputError, TemplateError
from tests.seed_tokenizer import INITIAL_SEED_TEMPLATE, SEED_TEMPLATE, seed_tokenizer

transformers = pytest.importorskip("transformers")
_USER = {"role": "user", "content": "How far is <seed:eos> it?"}
_ANSWER = {"role": "assistant", "content": "Far.", "reasoning_content": "Hm <seed:eos>"}
_CALLS = {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": '{"x": "é日本"}'}]}
_CHAT = [_USER, _ANSWER, _USER, _CALLS, {"role": "tool", "content": "r"}]
_MARKED = (
    "{% for m in messages %}<seed:bos>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<seed:eos>{% endgeneration %}{% else %}{{ m.content }}<seed:eos>{% endif %}"
    "{% endfor %}"
)
_PLAIN = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "Far away."}]


@pytest.fixture(scope="module")
def tokenizer() -> SeedOssTokenizer:
    return seed_tokenizer()


def _masked(tokenizer: SeedOssTokenizer, encoded: Any) -> str:
    return tokenizer.decode([i for i, m in zip(encoded.input_ids, encoded.assistant_masks, strict=True) if m])


@pytest.mark.parametrize("sanitize", [True, False])
def test_mask(tokenizer: SeedOssTokenizer, sanitize: bool) -> None:
    encoded = tokenizer.apply_chat_template(
        _CHAT,
        return_assistant_tokens_mask=True,
        thinking_budget=0,
        add_generation_prompt=True,
        sanitize_control_tokens=sanitize,
    )
    assert _masked(tokenizer, encoded) == (
        "<seed:think>Hm <seed:eos></seed:think>\nFar.<seed:eos>"
        "<seed:tool_call>\n<function=f>\n<parameter=x>é日本</parameter>\n</function>\n</seed:tool_call><seed:eos>"
    )
    assert len(encoded.assistant_masks) == len(encoded.input_ids) == len(encoded.attention_mask)


def test_a_token_belongs_to_the_turn_it_starts_in() -> None:
    starts = [0, 3, 4, 9, 10, 10, 11, 12, 20]
    assert in_spans(starts, ((4, 10), (11, 11), (11, 13))) == [0, 0, 1, 1, 0, 0, 1, 1, 0]
    assert in_spans(starts, ()) == [0] * len(starts)


def test_mask_through_a_foreign_template_with_generation_blocks(tokenizer: SeedOssTokenizer) -> None:
    hostile = [_USER, {"role": "assistant", "content": "Far <seed:eos> < \n"}, _USER]
    for template in (_MARKED, _MARKED.replace("{% generation %}", "{%-  generation -%}")):
        encoded = tokenizer.apply_chat_template(hostile, chat_template=template, return_assistant_tokens_mask=True)
        assert _masked(tokenizer, encoded) == "Far <seed:eos> < \n<seed:eos>"
        assert encoded.input_ids.count(2) == 3
    encoded = tokenizer.apply_chat_template([_USER], chat_template=_MARKED, return_assistant_tokens_mask=True)
    assert set(encoded.assistant_masks) == {0}


def test_mask_as_in_transformers(tokenizer: SeedOssTokenizer, tmp_path: Any) -> None:
    tokenizer.save_pretrained(tmp_path)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    arguments: dict[str, Any] = {"chat_template": _MARKED, "return_assistant_tokens_mask": True, "return_dict": True}
    found = tokenizer.apply_chat_template([_PLAIN, _PLAIN * 2], padding=True, **arguments)
    expected = theirs.apply_chat_template([_PLAIN, _PLAIN * 2], padding=True, **arguments)
    assert found.input_ids == expected["input_ids"]
    assert found.attention_mask == expected["attention_mask"]
    assert found.assistant_masks == expected["assistant_masks"]


def test_no_mask_without_generation_blocks(tokenizer: SeedOssTokenizer) -> None:
    with pytest.raises(TemplateError, match="generation %"):
        tokenizer.apply_chat_template(
            _PLAIN, chat_template="{{ messages[0].content }}", return_assistant_tokens_mask=True
        )
    refused: tuple[dict[str, Any], ...] = ({"tokenize": False}, {"return_dict": False})
    for arguments in refused:
        with pytest.raises(InputError, match="needs tokenize=True and return_dict=True"):
            tokenizer.apply_chat_template(_PLAIN, return_assistant_tokens_mask=True, **arguments)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_tensors(tokenizer: SeedOssTokenizer, side: str) -> None:
    arguments: dict[str, Any] = {"return_assistant_tokens_mask": True, "tokenizer_kwargs": {"padding_side": side}}
    rows = [tokenizer.apply_chat_template(chat, **arguments) for chat in (_CHAT, _PLAIN)]
    batch = tokenizer.apply_chat_template([_CHAT, _PLAIN], padding=True, return_tensors="pt", **arguments)
    assert batch.input_ids.dtype == torch.int64
    assert batch.input_ids.shape == batch.assistant_masks.shape == batch.attention_mask.shape
    missing = len(rows[0].input_ids) - len(rows[1].input_ids)
    for name, fill in {"input_ids": 1, "assistant_masks": 0, "attention_mask": 0}.items():
        short = [fill] * missing * (side == "left") + rows[1][name] + [fill] * missing * (side == "right")
        assert batch[name].tolist() == [rows[0][name], short]
    longest = tokenizer.apply_chat_template([_PLAIN], padding="max_length", max_length=300, return_tensors="np")
    assert isinstance(longest.input_ids, np.ndarray)
    assert longest.input_ids.shape == (1, 300)
    single = tokenizer.apply_chat_template(_PLAIN, return_tensors="pt", return_dict=False)
    assert single.tolist() == [rows[1].input_ids]
    with pytest.raises(InputError, match="a tensor needs one"):
        tokenizer.apply_chat_template([_CHAT, _PLAIN], return_tensors="pt")


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("length", [0, 1, 7])
def test_truncation(tokenizer: SeedOssTokenizer, side: str, length: int) -> None:
    whole = tokenizer.apply_chat_template(_CHAT, return_assistant_tokens_mask=True)
    cut = tokenizer.apply_chat_template(
        _CHAT,
        return_assistant_tokens_mask=True,
        truncation=True,
        max_length=length,
        tokenizer_kwargs={"truncation_side": side},
    )
    size = len(whole.input_ids)
    part = slice(0, length) if side == "right" else slice(size - length, size)
    assert (cut.input_ids, cut.assistant_masks) == (whole.input_ids[part], whole.assistant_masks[part])
    assert tokenizer.apply_chat_template(_CHAT, max_length=length).input_ids == whole.input_ids  # truncation is off
    with pytest.raises(InputError, match="only_second"):
        tokenizer.apply_chat_template(_CHAT, truncation="only_second", max_length=length)


def test_rows_that_are_asked_for(tokenizer: SeedOssTokenizer) -> None:
    wanted = {"return_token_type_ids": True, "return_special_tokens_mask": True, "return_attention_mask": False}
    for chat in (_PLAIN, [_PLAIN]):
        encoded = tokenizer.apply_chat_template(chat, tokenizer_kwargs=wanted)
        reference = tokenizer.apply_chat_template(chat, tokenizer_kwargs=wanted, sanitize_control_tokens=False)
        assert dict(encoded) == dict(reference)
    assert list(tokenizer.apply_chat_template(_PLAIN)) == ["input_ids", "attention_mask"]


def test_rows_longer_than_the_model_takes_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = seed_tokenizer()
    tokenizer.model_max_length = 5
    tokenizer.apply_chat_template(_PLAIN)
    assert "the model takes 5" in caplog.text


@pytest.mark.parametrize("template", [SEED_TEMPLATE, INITIAL_SEED_TEMPLATE], ids=["current", "initial"])
@pytest.mark.parametrize("field", [True, "content", "reasoning_content", "reasoning"])
def test_continuing_as_in_transformers(template: str, field: bool | str, tmp_path: Any) -> None:
    tokenizer = seed_tokenizer(chat_template=template)
    tokenizer.save_pretrained(tmp_path)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    for content in ("Sure, ", " {\n", "", "<seed:eos>"):
        for reasoning in ("let me", " let ", None):
            final = {"role": "assistant", "content": content, "reasoning_content": reasoning}
            if reasoning is None:
                del final["reasoning_content"]
                if isinstance(field, str) and field != "content":
                    continue
            chat = [{"role": "user", "content": "q"}, final]
            if field == "reasoning" and "reasoning_content" in final:
                final["reasoning"] = final["reasoning_content"]
            for tools in (None, [{"type": "function", "function": {"name": "f", "parameters": {"properties": {}}}}]):
                call: dict[str, Any] = {"tokenize": False, "continue_final_message": field, "tools": tools}
                assert tokenizer.apply_chat_template(chat, **call) == theirs.apply_chat_template(chat, **call)


@pytest.mark.parametrize("role", ["user", "system", "tool"])
def test_continuing_other_turns(tokenizer: SeedOssTokenizer, role: str) -> None:
    chat = [{"role": role, "content": " a <seed:eos> \n"}]
    found = tokenizer.apply_chat_template(chat, continue_final_message=True, tools=[], thinking_budget=512)
    assert tokenizer.decode(found.input_ids).endswith(f"<seed:bos>{role}\n a <seed:eos> \n")
    assert found.input_ids[-1] != 2
    with pytest.raises(TemplateError, match="does not write 'reasoning_content'"):
        tokenizer.apply_chat_template(chat, continue_final_message="reasoning_content")


def test_continuing_with_a_mask(tokenizer: SeedOssTokenizer) -> None:
    chat = [_USER, {"role": "assistant", "content": "So far "}]
    for template in (None, _MARKED):
        encoded = tokenizer.apply_chat_template(
            chat, chat_template=template, continue_final_message=True, return_assistant_tokens_mask=True
        )
        assert _masked(tokenizer, encoded).strip() == "So far"


class Budget:
    template_value = 512


def test_budget_and_tools_reach_every_template(tokenizer: SeedOssTokenizer) -> None:
    chat = [{"role": "user", "content": "q"}]
    for budget in (512, Budget(), ThinkingBudget(512)):
        text = tokenizer.apply_chat_template(chat, tokenize=False, thinking_budget=budget, add_generation_prompt=True)
        assert text == render(chat, thinking_budget=512, add_generation_prompt=True)
        foreign = "{{ thinking_budget }} {{ use_json_tooldef is defined }}"
        call: dict[str, Any] = {"tokenize": False, "chat_template": foreign}
        assert tokenizer.apply_chat_template(chat, thinking_budget=budget, **call) == "512 False"
        assert tokenizer.apply_chat_template(chat, use_json_tooldef=True, **call) == " True"
    tools = [{"type": "function", "function": {"name": "f"}}]
    text = tokenizer.apply_chat_template(chat, tools, tokenize=False, use_json_tooldef=True)
    assert text == render(chat, tools=tools, use_json_tooldef=True)
    batch = tokenizer.apply_chat_template([chat, chat], tokenize=False)
    assert batch == [render(chat)] * 2


def test_a_bad_conversation_of_a_batch_is_named(tokenizer: SeedOssTokenizer) -> None:
    bad = [_USER, {"role": "user", "content": 3}]
    with pytest.raises(TemplateError, match=r"^conversation 1 of the batch: messages\[1\]\.content must be text"):
        tokenizer.apply_chat_template([[_USER], bad])
    with pytest.raises(TemplateError, match=r"^messages\[1\]\.content must be text"):
        tokenizer.apply_chat_template([bad])


@pytest.mark.parametrize("spelled", [{"enable_thinking": False}, {"reasoning_effort": "none"}])
def test_other_spellings_of_a_budget_count_for_a_seed_template(spelled: Any) -> None:
    ask: list[dict[str, Any]] = [{"role": "user", "content": "q"}]
    tokenizer = seed_tokenizer()
    expected = tokenizer.apply_chat_template(ask, tokenize=False, thinking_budget=0)
    assert tokenizer.apply_chat_template(ask, tokenize=False, **spelled) == expected
    with pytest.raises(InputError, match="enable_thinking is 'no'"):
        tokenizer.apply_chat_template(ask, enable_thinking="no")
