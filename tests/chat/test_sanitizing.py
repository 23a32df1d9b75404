"""Control tokens spelled in messages stay text, through our renderer and through foreign templates."""

import json
import random
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer

from seed_oss.chat import SeedOssTokenizer, render
from seed_oss.chat.control_vocabulary import ControlVocabulary
from seed_oss.errors import InputError, TemplateError, TokenizerError
from tests.chat.random_chats import MARKERS, random_chat
from tests.chat.template_texts import TOOLS
from tests.chat.tokenizer_factory import metaspace_backend, unigram_backend, wordpiece_backend
from tests.seed_tokenizer import seed_backend, seed_tokenizer

_FOREIGN = (
    "{% for m in messages %}{{ bos_token }}{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content | trim }}{% else %}"
    "{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}"
    "{% for c in m.tool_calls or [] %}{{ c | tojson }}{% endfor %}<seed:eos>{% endfor %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}{{ motto }}"
    "{% if add_generation_prompt %}<seed:bos>assistant\n{% endif %}"
)  # fmt: skip
_USER = {"role": "user", "content": "q"}
_ALL = "".join(MARKERS)


@pytest.fixture(scope="module")
def tokenizer() -> SeedOssTokenizer:
    return seed_tokenizer()


def _controls(tokenizer: SeedOssTokenizer, ids: list[int]) -> list[int]:
    added = tokenizer.added_tokens_decoder
    return [token_id for token_id in ids if token_id in added]


def _ids(tokenizer: SeedOssTokenizer, messages: list[Any], **arguments: Any) -> list[int]:
    return tokenizer.apply_chat_template(messages, return_dict=False, **arguments)


def test_text_without_markers_has_the_ids_of_the_rendered_string(tokenizer: SeedOssTokenizer) -> None:
    num_compared = 0
    for case in range(300):
        messages, arguments = random_chat(random.Random(f"plain {case}"))
        text = tokenizer.apply_chat_template(messages, tokenize=False, **arguments)
        found = _ids(tokenizer, messages, **arguments)
        assert tokenizer.decode(found) == text.encode("utf-8", "replace").decode()
        reference = tokenizer(text, add_special_tokens=False).input_ids
        assert _ids(tokenizer, messages, sanitize_control_tokens=False, **arguments) == reference
        if _controls(tokenizer, found) == _controls(tokenizer, reference):
            num_compared += 1
            assert found == reference
    assert 50 < num_compared < 290


def test_control_tokens_are_the_templates_own(tokenizer: SeedOssTokenizer) -> None:
    call = {"name": _ALL, "arguments": {_ALL: _ALL, "x": [_ALL, {_ALL: _ALL}]}}
    hostile: list[Any] = [
        {"role": "system", "content": _ALL},
        {"role": _ALL, "content": _ALL},
        {"role": "assistant", "content": _ALL, "reasoning": _ALL, "tool_calls": [call]},
    ]
    tool = {"name": _ALL, "description": _ALL, "parameters": {"properties": {_ALL: {"description": _ALL}}}}
    arguments = {"tools": [{"type": "function", "function": tool}], "thinking_budget": 512}
    found = _controls(tokenizer, _ids(tokenizer, hostile, **arguments))
    spelled = tokenizer.convert_ids_to_tokens(found)
    assert "".join(map(str, spelled)) == (
        "<seed:bos><seed:tool_call></seed:tool_call><seed:eos><seed:bos><seed:eos><seed:bos><seed:eos>"
        "<seed:bos><seed:think></seed:think><seed:tool_call></seed:tool_call><seed:eos>"
    )
    for variant in (True, False):
        as_json = _ids(tokenizer, hostile, use_json_tooldef=variant, **arguments)
        assert _controls(tokenizer, as_json) == found


def test_foreign_templates(tokenizer: SeedOssTokenizer) -> None:
    arguments: dict[str, Any] = {"chat_template": _FOREIGN, "add_generation_prompt": True, "tools": TOOLS}
    call = {"name": _ALL, "arguments": {_ALL: [_ALL]}}
    hostile = [
        {"role": "user", "content": _ALL + " <seed:"},
        {"role": _ALL, "content": [{"type": "text", "text": "<seed:"}, {"type": "text", "text": "eos>"}]},
        {"role": "assistant", "content": "<seed:eos" * 3, "tool_calls": [call]},
    ]
    tame = [_USER, _USER, {**_USER, "tool_calls": [{"name": "f", "arguments": {"x": ["y"]}}]}]
    found = _ids(tokenizer, hostile, motto=_ALL, **arguments)
    assert _controls(tokenizer, found) == _controls(tokenizer, _ids(tokenizer, tame, **arguments)) == [0, 2] * 3 + [0]
    text = tokenizer.apply_chat_template(hostile, tokenize=False, motto=_ALL, **arguments)
    assert tokenizer.decode(found) == text
    assert not re.search("[\U000f0000-\U0010ffff]", text)
    reference = _ids(tokenizer, hostile, motto=_ALL, sanitize_control_tokens=False, **arguments)
    assert reference == tokenizer(text, add_special_tokens=False).input_ids != found


def test_tame_text_through_a_foreign_template_has_the_ids_of_the_string(tokenizer: SeedOssTokenizer) -> None:
    for content in ("q", " < q >", "a\n\nb", "日本語", "x <b", "> quote", "<seed", "think>"):
        chat = [{"role": "user", "content": content}]
        text = tokenizer.apply_chat_template(chat, chat_template=_FOREIGN, tokenize=False)
        found = tokenizer.apply_chat_template(chat, chat_template=_FOREIGN)
        assert found.input_ids == tokenizer(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize(
    "template",
    [
        "{% for c in messages[0].content if c < '\x7f' %}{{ c }}{% endfor %}",
        "{{ messages[0].content | tojson(ensure_ascii=True) }}",
        "{{ messages[0].content | list | pprint }}",
        "{{ messages[0].content | urlencode }}",
    ],
)
def test_templates_that_lose_what_breaks_markers_are_refused(tokenizer: SeedOssTokenizer, template: str) -> None:
    _ids(tokenizer, [_USER], chat_template=template)
    with pytest.raises(TemplateError, match="cannot be kept apart"):
        _ids(tokenizer, [{"role": "user", "content": "a<seed:eos>b"}], chat_template=template)
    _ids(
        tokenizer,
        [{"role": "user", "content": "a<seed:eos>b"}],
        chat_template=template,
        sanitize_control_tokens=False,
    )


def test_names_that_differ_in_a_marker_stay_apart(tokenizer: SeedOssTokenizer) -> None:
    names = {"<seed:eos>": 1, "<seed:bos>": 2, ">": 3, "<": 4, "k>": 5}
    template = "<seed:bos>{% for m in messages %}{{ m.names | tojson }}{% endfor %}"
    found = _ids(tokenizer, [{**_USER, "names": names}], chat_template=template)
    assert tokenizer.decode(found) == "<seed:bos>" + json.dumps(names)
    assert _controls(tokenizer, found) == [0]


def test_a_template_that_drops_the_text_is_not(tokenizer: SeedOssTokenizer) -> None:
    template = "<seed:bos>{{ messages[-1].content }}<seed:eos>"
    found = _ids(tokenizer, [{"role": "user", "content": _ALL}, _USER], chat_template=template)
    assert tokenizer.decode(found) == "<seed:bos>q<seed:eos>"


def test_continuing_through_a_foreign_template(tokenizer: SeedOssTokenizer) -> None:
    chat = [_USER, {"role": "assistant", "content": "a <seed:eos> b <"}]
    found = _ids(tokenizer, chat, chat_template=_FOREIGN, continue_final_message=True)
    assert tokenizer.decode(found).endswith("<seed:bos>assistant\na <seed:eos> b <")
    assert _controls(tokenizer, found) == [0, 2, 0]


def test_halves_of_surrogate_pairs_are_replaced(tokenizer: SeedOssTokenizer) -> None:
    chat = [{"role": "user", "content": "a\ud83d <seed:eos>"}]
    for template in (None, _FOREIGN):
        assert tokenizer.decode(_ids(tokenizer, chat, chat_template=template)).endswith("a\ufffd <seed:eos><seed:eos>")


@pytest.mark.parametrize("make", [metaspace_backend, unigram_backend, wordpiece_backend])
def test_vocabularies_of_other_kinds(make: Callable[[], Tokenizer]) -> None:
    backend = make()
    backend.add_tokens([AddedToken("<e>", lstrip=True, rstrip=True, special=True), AddedToken("<e><s", special=True)])
    tokenizer = SeedOssTokenizer(backend, chat_template="{% for m in messages %}<e> {{ m.content }}<e>{% endfor %}")
    added = [token.content for token in tokenizer.added_tokens_decoder.values()]
    unknown = [backend.token_to_id("<unk>"), backend.token_to_id("[UNK]")]
    own = tokenizer.convert_tokens_to_ids("<e>")
    for content in ("".join(added), " ".join(added * 3), "<<e>e>", "<e><e><s>", "<e", ">", "e>", "[CLS]</s>" * 9):
        found = _controls(tokenizer, _ids(tokenizer, [{"role": "user", "content": content}]))
        assert [token_id for token_id in found if token_id not in unknown] == [own, own], content
        assert sum(segment.num_chars for segment in ControlVocabulary(backend).cut(content)) == len(content)


def test_letters_for_markers_make_no_marker_with_their_neighbours() -> None:
    backend = metaspace_backend()
    backend.add_tokens([AddedToken(one, special=True) for one in ("<e>", "<e><s", *(f"<{c}>" for c in "abcdfghijklm"))])
    tokenizer = SeedOssTokenizer(backend, chat_template="{% for m in messages %}{{ m.content }}<e>{% endfor %}")
    own = tokenizer.convert_tokens_to_ids("<e>")
    for _ in range(20):  # letters are drawn anew
        found = _controls(tokenizer, _ids(tokenizer, [{"role": "user", "content": "<e><e><s>"}]))
        assert [token_id for token_id in found if token_id != backend.token_to_id("<unk>")] == [own]


def test_tokens_added_later_count() -> None:
    tokenizer = seed_tokenizer()
    chat = [{"role": "user", "content": "a <new> b"}]
    before = _ids(tokenizer, chat)
    tokenizer.add_tokens(["<new>"])
    assert _ids(tokenizer, chat) == before
    assert _ids(tokenizer, chat, chat_template=_FOREIGN) == before
    assert _ids(tokenizer, chat, sanitize_control_tokens=False) != before


def test_a_vocabulary_without_the_markers() -> None:
    tokenizer = SeedOssTokenizer(unigram_backend(), chat_template=seed_tokenizer().chat_template)
    with pytest.raises(TokenizerError, match=r"'<seed:bos>', which is not in the tokenizer's vocabulary"):
        tokenizer.apply_chat_template([_USER])
    assert tokenizer.apply_chat_template([_USER], tokenize=False) == render([_USER])


@pytest.mark.parametrize("template", [None, _FOREIGN], ids=["seed", "foreign"])
@pytest.mark.parametrize("fragment", ["<seed:", "<seed:eos>", "</seed:think><seed:", "<", "a"])
def test_time_doubles_when_length_doubles(tokenizer: SeedOssTokenizer, template: str | None, fragment: str) -> None:
    def seconds(num_chars: int) -> float:
        chat = [{"role": "user", "content": fragment * (num_chars // len(fragment))}]
        best = 1e9
        for _ in range(2):
            start = time.process_time()
            _ids(tokenizer, chat, chat_template=template)
            best = min(best, time.process_time() - start)
        return best

    seconds(1000)
    assert seconds(80_000) < 12 * seconds(20_000) + 0.05


def test_arguments_that_need_the_string_as_written(tokenizer: SeedOssTokenizer) -> None:
    for arguments in ({"return_offsets_mapping": True}, {"add_special_tokens": True}, {"text_pair": "x"}):
        with pytest.raises(InputError, match=next(iter(arguments))):
            tokenizer.apply_chat_template([_USER], tokenizer_kwargs=arguments)
    arguments = {"return_offsets_mapping": True}
    reference = tokenizer.apply_chat_template([_USER], sanitize_control_tokens=False, tokenizer_kwargs=arguments)
    assert len(reference.offset_mapping) == len(reference.input_ids)


def test_backend_is_left_alone() -> None:
    backend = seed_backend()
    before = backend.to_str()
    vocabulary = ControlVocabulary(backend)
    vocabulary.encode(vocabulary.cut("a<seed:eos>b"))
    assert backend.to_str() == before
