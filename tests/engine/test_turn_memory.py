"""Generated tokens stand for the turns they were parsed into, and for no others."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from seed_oss.chat import StreamParser
from seed_oss.chat.assistant_message import AssistantMessage
from seed_oss.engine import turn_memory
from seed_oss.engine.turn_memory import TurnMemory
from tests.seed_tokenizer import seed_tokenizer

TOKENIZER = seed_tokenizer()
EOS = TOKENIZER.convert_tokens_to_ids("<seed:eos>")
THINK, END_THINK = (TOKENIZER.convert_tokens_to_ids(name) for name in ("<seed:think>", "</seed:think>"))
ASK = {"role": "user", "content": "How are you?"}
MORE = {"role": "user", "content": "And now?"}
CHATML = (
    "{% for m in messages %}<seed:bos>{{ m.role }}\n{{ m.content | trim }}<seed:eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<seed:bos>assistant\n{% endif %}"
)


def render(messages: Sequence[Mapping[str, Any]], is_answered: bool) -> list[int]:
    return TOKENIZER.apply_chat_template(messages, add_generation_prompt=is_answered, return_dict=False)


def written(*parts: str | int) -> list[int]:
    """Tokens of an answer; texts are cut into single characters, as no tokenizer would."""
    ids: list[int] = []
    for part in parts:
        ids += [part] if isinstance(part, int) else [one for char in part for one in TOKENIZER.encode(char)]
    return ids


def parsed(ids: Sequence[int], prompt: Sequence[int]) -> AssistantMessage:
    opening = TOKENIZER.detokenizer()
    parser = StreamParser(None, [*opening.put_pieces(list(prompt)), *opening.finish_pieces()], text_is_plain=True)
    detokenizer = TOKENIZER.detokenizer(skip_special_tokens=True)
    pieces = [*detokenizer.put_pieces(list(ids)), *detokenizer.finish_pieces()]
    return AssistantMessage.from_events([*(event for one in pieces for event in parser.feed(one)), *parser.finish()])


class Talk:
    """A conversation whose answers are remembered."""

    def __init__(self, memory: TurnMemory | None = None) -> None:
        self.memory = TurnMemory(10_000, frozenset({EOS})) if memory is None else memory
        self.messages: list[dict[str, Any]] = []

    def answer(
        self, ask: dict[str, Any], *parts: str | int, keeps_reasoning: bool = True, is_cut: bool = False
    ) -> list[int]:
        """Ask, answer with these tokens, and send the parsed answer back in what follows; the tokens so far."""
        self.messages.append(ask)
        prompt = self.prompt().ids
        ids = written(*parts)
        message = parsed(ids, prompt)
        self.memory.remember("me", prompt, ids, message, is_cut=is_cut)
        sent = {"role": "assistant", "content": message.content}
        self.messages.append(sent | ({"reasoning_content": message.reasoning} if keeps_reasoning else {}))
        return [*prompt, *ids]

    def prompt(self, **settings: Any) -> Any:
        return self.memory.prompt("me", self.messages, render, **settings)


def test_the_next_prompt_begins_with_all_that_was_computed() -> None:
    talk = Talk()
    for number in range(3):
        so_far = talk.answer(ASK if number % 2 else MORE, THINK, "hm ", END_THINK, "\n\n Well. ", EOS)
        talk.messages.append(MORE)
        found = talk.prompt()
        talk.messages.pop()
        assert found.ids[: len(so_far)] == tuple(so_far)
        assert [turn.missed for turn in found.turns] == [None] * (number + 1)
        assert tuple(render([*talk.messages, MORE], True))[: len(so_far)] != tuple(so_far)


def test_what_stands_behind_is_rendered_as_ever() -> None:
    talk = Talk()
    so_far = talk.answer(ASK, "Well.", EOS)
    talk.messages.append(MORE)
    rendered = render(talk.messages, True)
    head = render(talk.messages[:2], False)
    assert list(talk.prompt().ids) == so_far + rendered[len(head) :]


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({"content": "Well!"}, "content_changed"),
        ({"content": [{"type": "text", "text": "Well"}, {"type": "text", "text": "?"}]}, "content_changed"),
        ({"reasoning_content": "ah"}, "reasoning_changed"),
        ({"reasoning_content": None}, "reasoning_not_returned"),
        ({"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}, "tool_calls_changed"),
    ],
)
def test_another_answer_is_rendered_and_the_miss_is_said(change: dict[str, Any], missed: str) -> None:
    talk = Talk()
    talk.answer(ASK, THINK, "hm", END_THINK, "Well.", EOS)
    talk.messages[-1] |= change
    talk.messages.append(MORE)
    found = talk.prompt()
    assert found.ids == tuple(render(talk.messages, True))
    assert [turn.missed for turn in found.turns] == [missed]


def test_reasoning_that_was_left_out_comes_back_only_where_that_is_asked_for() -> None:
    talk = Talk()
    so_far = talk.answer(ASK, THINK, "hm", END_THINK, "Well.", EOS, keeps_reasoning=False)
    talk.messages.append(MORE)
    assert [turn.missed for turn in talk.prompt().turns] == ["reasoning_not_returned"]
    assert THINK not in talk.prompt().ids[-40:]
    found = talk.prompt(reuse_reasoning=True)
    assert found.ids[: len(so_far)] == tuple(so_far)


def test_one_namespace_does_not_find_what_another_generated() -> None:
    talk = Talk()
    talk.answer(ASK, "Well.", EOS)
    talk.messages.append(MORE)
    other = talk.memory.prompt("other", talk.messages, render)
    assert [turn.missed for turn in other.turns] == ["unknown"]
    assert other.ids == tuple(render(talk.messages, True))


def test_an_answer_that_was_cut_off_is_rendered_and_called_unfinished() -> None:
    talk = Talk()
    talk.answer(ASK, "Well, then")
    talk.messages.append(MORE)
    found = talk.prompt()
    assert [turn.missed for turn in found.turns] == ["unfinished"]
    assert found.ids == tuple(render(talk.messages, True))


def test_content_that_the_limit_cut_off_stands_with_the_end_of_its_turn_behind_it() -> None:
    talk = Talk()
    so_far = talk.answer(ASK, THINK, "hm", END_THINK, " Well,  then ", is_cut=True)
    talk.messages.append(MORE)
    found = talk.prompt()
    assert [turn.missed for turn in found.turns] == [None]
    rendered = render(talk.messages, True)
    head = render(talk.messages[:2], False)
    assert head[-1] == EOS
    assert list(found.ids) == [*so_far, EOS, *rendered[len(head) :]]


@pytest.mark.parametrize(
    "parts",
    [
        (THINK, "hm"),
        (THINK, "hm", END_THINK),
        ("Well \ufffd",),
        ("<seed:tool_call>\n<function=f>\n",),
    ],
)
def test_what_was_cut_off_within_something_else_is_unfinished(parts: tuple[Any, ...]) -> None:
    talk = Talk()
    found = (TOKENIZER.encode(part) if isinstance(part, str) and "<seed:" in part else [part] for part in parts)
    talk.answer(ASK, *(one for some in found for one in some), is_cut=True)
    talk.messages.append(MORE)
    assert [turn.missed for turn in talk.prompt().turns] == ["unfinished"]
    assert talk.prompt().ids == tuple(render(talk.messages, True))


@pytest.mark.parametrize("count", [1, 2])
def test_a_turn_without_an_end_in_the_template_is_rendered_once(count: int) -> None:
    """Seed's templates write no end behind a turn that has only thinking; an earlier message's end is not its own."""
    talk = Talk()
    for _ in range(count):
        talk.answer(ASK, THINK, "hm", END_THINK, EOS)
    talk.messages.append(MORE)
    found = talk.prompt()
    assert [turn.missed for turn in found.turns] == ["template"] * count
    assert found.ids == tuple(render(talk.messages, True))


def test_a_history_that_was_changed_before_an_answer_misses_all_that_follow() -> None:
    talk = Talk()
    talk.answer(ASK, "Well.", EOS)
    talk.answer(MORE, "Still.", EOS)
    talk.messages[0] = MORE
    talk.messages.append(ASK)
    assert [turn.missed for turn in talk.prompt().turns] == ["unknown", "unknown"]


def test_memory_is_bounded_and_the_oldest_goes() -> None:
    memory = TurnMemory(300, frozenset({EOS}))
    for number in range(40):
        Talk(memory).answer({"role": "user", "content": f"number {number}"}, "Well.", EOS)
    assert 0 < len(memory) < 20
    talk = Talk(memory)
    talk.messages = [{"role": "user", "content": "number 39"}, {"role": "assistant", "content": "Well."}, MORE]
    assert [turn.missed for turn in talk.prompt().turns] == [None]


def test_what_a_template_writes_behind_the_end_of_a_turn_stays() -> None:
    memory, ids = TurnMemory(1000, frozenset({EOS})), written("Well.", EOS)

    def chatml(messages: Sequence[Mapping[str, Any]], is_answered: bool) -> list[int]:
        return TOKENIZER.apply_chat_template(
            messages, chat_template=CHATML, add_generation_prompt=is_answered, return_dict=False
        )

    prompt = chatml([ASK], True)
    memory.remember("me", prompt, ids, AssistantMessage(content="Well."))
    messages = [ASK, {"role": "assistant", "content": " Well. "}, MORE]
    found = memory.prompt("me", messages, chatml)
    assert list(found.ids[: len(prompt) + len(ids)]) == [*prompt, *ids]
    assert TOKENIZER.decode(found.ids) == TOKENIZER.decode(chatml(messages, True))


def test_a_long_conversation_hits_although_its_first_answers_are_forgotten() -> None:
    talk = Talk(TurnMemory(40_000, frozenset({EOS})))
    for number in range(80):
        so_far = talk.answer(ASK if number % 2 else MORE, "Well. ", EOS)
    talk.messages.append(MORE)
    found = talk.prompt()
    assert found.ids[: len(so_far)] == tuple(so_far)
    assert [turn.missed for turn in found.turns] == [None] * 80
    assert len(talk.memory) < 80


def test_a_long_conversation_is_rendered_as_often_as_a_short_one() -> None:
    talk, counts, rendered = Talk(), list[int](), list[int]()

    def counted(messages: Sequence[Mapping[str, Any]], is_answered: bool) -> list[int]:
        rendered.append(len(messages))
        return render(messages, is_answered)

    for _ in range(12):
        talk.answer(ASK, "Well. ", EOS)
        rendered.clear()
        talk.memory.prompt("me", [*talk.messages, MORE], counted)
        counts.append(len(rendered))
    assert set(counts) == {3}


@pytest.mark.parametrize("change", ["messages", "template", "namespace", "reasoning"])
def test_what_was_put_together_stands_for_the_same_conversation_only(change: str) -> None:
    talk = Talk()
    for _ in range(3):
        talk.answer(ASK, THINK, "hm", END_THINK, "Well. ", EOS)
    talk.messages.append(MORE)
    assert [turn.missed for turn in talk.prompt(reuse_reasoning=True).turns] == [None] * 3
    if change == "messages":
        talk.messages[0] = MORE
    if change == "reasoning":
        del talk.messages[1]["reasoning_content"]
    asked = {"namespace": "you" if change == "namespace" else "me", "messages": talk.messages}
    tools = {"tools": [{"type": "function", "function": {"name": "f"}}]} if change == "template" else {}

    def other(messages: Sequence[Mapping[str, Any]], is_answered: bool) -> list[int]:
        return TOKENIZER.apply_chat_template(messages, add_generation_prompt=is_answered, return_dict=False, **tools)

    found = talk.memory.prompt(**asked, render=other)
    assert found.ids == tuple(other(talk.messages, True))
    assert all(turn.missed for turn in found.turns)


def test_an_answer_that_is_asked_for_again_still_hits() -> None:
    talk = Talk()
    for _ in range(4):
        so_far = talk.answer(ASK, "Well. ", EOS)
    talk.messages.append(MORE)
    talk.prompt()
    again = talk.memory.prompt("me", talk.messages[:-2], render)
    assert again.ids == tuple(so_far[: len(again.ids)])
    assert [turn.missed for turn in again.turns] == [None] * 3


def test_looking_up_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn_memory, "MAX_RENDERED", 100)
    talk = Talk()
    talk.messages = [one for _ in range(50) for one in (ASK, {"role": "assistant", "content": "Well."})] + [MORE]
    talk.memory.remember("me", [1], [2, EOS], AssistantMessage(content="x"))
    rendered: list[int] = []

    def counted(messages: Sequence[Mapping[str, Any]], is_answered: bool) -> list[int]:
        rendered.append(len(messages))
        return render(messages, is_answered)

    found = talk.memory.prompt("me", talk.messages, counted)
    assert [turn.missed for turn in found.turns] == ["unknown"] * 50
    assert len(rendered) < 12
    assert found.ids == tuple(render(talk.messages, True))
