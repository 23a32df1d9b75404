"""`seed-oss chat` and the conversation behind it."""

from pathlib import Path
from typing import Any

import pytest

from seed_oss import AutoModelForCausalLM, AutoTokenizer
from seed_oss.cli.answer_view import AnswerView
from seed_oss.cli.answering import Answer
from seed_oss.cli.conversation import Conversation
from seed_oss.cli.loading import Loaded
from seed_oss.cli.paper import PlainPaper
from seed_oss.cli.tool_runner import Consent, ToolRunner
from seed_oss.errors import TemplateError
from tests.cli.conftest import Run

SETTINGS = {"max_new_tokens": 6, "do_sample": False}


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> Loaded:
    return Loaded(AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint))


def conversation(loaded: Loaded, system: str | None = None, write: Any = lambda piece: None) -> Conversation:
    view = AnswerView(PlainPaper(), write)
    return Conversation(loaded, SETTINGS, view, ToolRunner([], view, lambda call: Consent.no), system)


def last(talk: Conversation) -> str:
    return talk.messages[-1]["content"]


def answer_from_scratch(loaded: Loaded, messages: list[dict[str, str]]) -> str:
    ids = loaded.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    result: Any = loaded.model.generate(ids, **SETTINGS)
    return loaded.tokenizer.decode(result[0, ids.shape[1] :].tolist(), skip_special_tokens=True).strip()


def test_every_turn_is_the_answer_to_the_whole_conversation(loaded: Loaded):
    talk = conversation(loaded, system="Be kind.")
    messages = [{"role": "system", "content": "Be kind."}]
    for text in ("Hello", "And now?", "Größe 🙂"):
        messages.append({"role": "user", "content": text})
        answer = talk.reply(text)
        assert answer.is_whole
        assert last(talk) == answer_from_scratch(loaded, messages)
        assert answer.num_tokens == 6
        messages.append({"role": "assistant", "content": last(talk)})
        assert talk.messages == messages


def test_a_turn_computes_only_what_is_new(loaded: Loaded):
    talk = conversation(loaded)
    talk.reply("A first message that is long enough to tell the difference.")
    lengths: list[int] = []

    def count(module: Any, arguments: Any, kwargs: dict[str, Any]) -> None:
        lengths.append(kwargs["input_ids"].shape[1])

    handle = loaded.model.register_forward_pre_hook(count, with_kwargs=True)
    talk.reply("Next")
    handle.remove()
    whole = loaded.tokenizer.apply_chat_template(talk.messages[:-1], add_generation_prompt=True)["input_ids"]
    assert 0 < sum(lengths) - (SETTINGS["max_new_tokens"] - 1) < len(whole) // 2


def test_the_pieces_are_shown_as_they_come(loaded: Loaded):
    pieces: list[str] = []
    talk = conversation(loaded, write=pieces.append)
    talk.reply("Hello")
    assert "".join(pieces).strip() == last(talk)
    assert len(pieces) > 2


def interrupting_after(num_pieces: int, shown: list[str]) -> Any:
    def write(piece: str) -> None:
        shown.append(piece)
        if len(shown) == num_pieces:
            raise KeyboardInterrupt

    return write


def test_an_interrupted_answer_stays_as_far_as_it_came(loaded: Loaded):
    shown: list[str] = []
    talk = conversation(loaded, write=interrupting_after(2, shown))
    assert not talk.reply("Hello").is_whole
    assert talk.messages[-1]["role"] == "assistant"
    assert "".join(shown).startswith(last(talk)[:2])
    assert talk.reply("Go on").is_whole
    assert last(talk) == answer_from_scratch(loaded, talk.messages[:-1])


def test_a_message_without_any_answer_is_taken_back(loaded: Loaded, monkeypatch: pytest.MonkeyPatch):
    talk = conversation(loaded)

    def interrupt(*arguments: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("seed_oss.models.chat.prepare_turn", interrupt)
        assert not talk.reply("Hello").is_whole
    assert talk.messages == []
    talk.reply("Hello")
    assert last(talk) == answer_from_scratch(loaded, talk.messages[:1])


def test_an_error_takes_the_message_back(loaded: Loaded, monkeypatch: pytest.MonkeyPatch):
    talk = conversation(loaded)
    talk.reply("Hello")
    before = list(talk.messages)

    def fail(*arguments: Any, **kwargs: Any) -> Any:
        raise TemplateError("no")

    with monkeypatch.context() as patch:
        patch.setattr("seed_oss.models.chat.prepare_turn", fail)
        with pytest.raises(TemplateError):
            talk.reply("Next")
    assert talk.messages == before


def test_reset_keeps_the_system_message(loaded: Loaded):
    talk = conversation(loaded, system="Be kind.")
    talk.reply("Hello")
    first = last(talk)
    talk.reset()
    assert talk.messages == [{"role": "system", "content": "Be kind."}]
    talk.reply("Hello")
    assert last(talk) == first


def test_lines_from_a_pipe(run: Run, checkpoint: Path):
    lines = "Hello\n\n/help\n/reset\nHello\n/nonsense\n//slash\n/exit\nnever read\n"
    outcome = run("chat", "--model", checkpoint, "--max-new-tokens", "6", stdin=lines)
    assert outcome.code == 0
    notes = outcome.err.splitlines()
    assert sum(line.startswith("6 tokens, ") for line in notes) == 3
    assert sum("stop the answer that is being written" in line for line in notes) == 2
    assert "A new conversation." in notes
    assert any("/nonsense is no command" in line and "//nonsense sends it" in line for line in notes)


def test_the_end_of_the_input_ends_the_conversation(run: Run, checkpoint: Path):
    assert run("chat", "--model", checkpoint, "--max-new-tokens", "2", stdin="Hello\n").code == 0


def test_a_failing_answer_does_not_end_the_conversation(run: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    answers: list[str] = []

    def reply(self: Conversation, message: str, note: Any) -> Any:
        answers.append(message)
        raise TemplateError("the template says no")

    monkeypatch.setattr(Conversation, "reply", reply)
    outcome = run("chat", "--model", checkpoint, stdin="one\ntwo\n")
    assert outcome.code == 0
    assert answers == ["one", "two"]
    assert outcome.err.count("error: the template says no") == 2


def test_two_slashes_send_one(run: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    answers: list[str] = []

    def reply(self: Conversation, message: str, note: Any) -> Any:
        answers.append(message)
        return Answer()

    monkeypatch.setattr(Conversation, "reply", reply)
    run("chat", "--model", checkpoint, stdin="//etc is a folder\na // b\n")
    assert answers == ["/etc is a folder", "a // b"]


def test_ctrl_c_just_after_an_answer_does_not_end_the_conversation(
    run: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
):
    answers: list[str] = []

    def reply(self: Conversation, message: str, note: Any) -> Any:
        answers.append(message)
        return Answer()

    def summary(self: Answer) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(Conversation, "reply", reply)
    monkeypatch.setattr(Answer, "summary", summary)
    assert run("chat", "--model", checkpoint, stdin="one\ntwo\n").code == 0
    assert answers == ["one", "two"]


def test_a_checkpoint_that_cannot_talk(run: Run, plain_checkpoint: Path):
    outcome = run("chat", "--model", plain_checkpoint, stdin="Hello\n")
    assert outcome.code == 1
    assert "has no chat template" in outcome.err
    assert "seed-oss generate --raw" in outcome.err


def test_wrong_options_are_told_before_loading(run: Run):
    outcome = run("chat", "--model", "no-such-model", "--greedy", "--top-p", "0.5", stdin="")
    assert outcome.code == 2
    assert "--top-p would have no effect" in " ".join(outcome.err.split())
