"""Chats from Python go on from what was generated: the ids of an answer stand for it in the next prompt."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from seed_oss import SeedOssForCausalLM
from seed_oss.chat import SeedOssTokenizer
from seed_oss.config.sampling import SamplingParams
from seed_oss.engine.async_llm import AsyncLLM
from seed_oss.engine.llm import LLM
from seed_oss.engine.messages import Ended, Event, Ready, Started, Submit, Tokens
from seed_oss.engine.turn_memory import TurnUse
from seed_oss.errors import InputError, SeedOssError
from tests.factory import tiny_checkpoint, tiny_model
from tests.seed_tokenizer import seed_tokenizer

VOCAB_SIZE = 400
ASK = [{"role": "user", "content": "How are you?"}]
MORE = {"role": "user", "content": "And now?"}
THOUGHT = "<seed:think> hm </seed:think>\n\n Well. <seed:eos>"  # blanks that no rendering would write


class SayingCore:
    """Answers every request with the same text."""

    def __init__(self, tokenizer: SeedOssTokenizer, text: str, reason: str = "eos") -> None:
        self.ids: tuple[int, ...] = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        self.submits: list[Submit] = []
        self._reason, self._events = reason, list[Event]()

    @property
    def has_work(self) -> bool:
        return bool(self._events)

    def ready(self) -> Ready:
        return Ready(4096, 16, VOCAB_SIZE, ("generate",))

    def submit(self, submit: Submit) -> None:
        self.submits.append(submit)
        self._events.append(Started(submit.request_id, (), 100))
        for choice in range(submit.params.n):
            self._events.append(Tokens(submit.request_id, choice, self.ids))
            self._events.append(Ended(submit.request_id, choice, self._reason))

    def alone(self) -> AbstractContextManager[None]:
        return nullcontext()

    def step(self) -> list[Event]:
        events, self._events = self._events, []
        return events


@lru_cache
def model() -> Any:
    return tiny_model(SeedOssForCausalLM, vocab_size=VOCAB_SIZE, max_position_embeddings=4096)


def talk(text: str = THOUGHT, reason: str = "eos") -> tuple[LLM, SayingCore]:
    """An LLM whose engine says a text."""
    llm = LLM(model(), tokenizer=seed_tokenizer(vocab_size=VOCAB_SIZE), max_model_len=512)
    core = SayingCore(llm.tokenizer, text, reason)
    llm._core = core  # type: ignore[assignment]
    return llm, core


def followed(core: SayingCore) -> bool:
    """Whether the second prompt goes on from the tokens of the first answer."""
    first, second = (submit.prompt_ids for submit in core.submits)
    answered = (*first, *core.ids)
    return second[: len(answered)] == answered


def test_a_conversation_finds_in_the_cache_what_was_generated() -> None:
    llm = LLM(model(), tokenizer=seed_tokenizer(vocab_size=VOCAB_SIZE), max_model_len=2048)
    letters = [one for char in "abcd " for one in llm.tokenizer.encode(char)]
    params = SamplingParams(seed=5, max_tokens=128, min_tokens=128, logit_bias=dict.fromkeys(letters, 100.0))
    messages: list[dict[str, Any]] = [*ASK]
    num_computed = 0
    for turn in range(3):
        (output,) = llm.chat(messages, params, thinking_budget=0)
        assert output.turns == tuple(TurnUse(2 * index + 1, None) for index in range(turn))
        assert output.request.num_cached_tokens >= 32 * (num_computed // 32)
        num_computed = len(output.request.prompt_token_ids) + 127  # the last token of an answer is not computed
        messages += [output.messages[0].to_openai(), MORE]
    (output,) = llm.chat(messages, params, thinking_budget=0, cache_turns=False)
    assert output.turns == tuple(TurnUse(index, "off") for index in (1, 3, 5))
    assert output.request.num_cached_tokens < num_computed - 300


@pytest.mark.parametrize(
    ("message", "settings", "missed"),
    [
        ({"content": "Well.", "reasoning_content": "hm"}, {}, None),
        ({"content": "Well."}, {"reuse_reasoning": True}, None),
        ({"content": "Well."}, {}, "reasoning_not_returned"),
        ({"content": "Hm."}, {"reuse_reasoning": True}, "content_changed"),
        ({"content": "Well.", "reasoning_content": "hm"}, {"cache_turns": False}, "off"),
        ({"content": "Well.", "reasoning_content": "hm"}, {"adapter": "other"}, "unknown"),
    ],
)
def test_an_answer_in_a_history(message: dict[str, Any], settings: dict[str, Any], missed: str | None) -> None:
    llm, core = talk()
    llm.chat(ASK)
    (output,) = llm.chat([*ASK, {"role": "assistant", **message}, MORE], **settings)
    assert output.turns == (TurnUse(1, missed),)
    assert followed(core) is (missed is None)


def test_what_was_not_to_be_remembered_is_not() -> None:
    llm, core = talk()
    (output,) = llm.chat(ASK, cache_turns=False)
    assert output.turns == ()
    (output,) = llm.chat([*ASK, output.messages[0].to_openai(), MORE])
    assert output.turns == (TurnUse(1, "unknown"),)
    assert not followed(core)


def test_each_of_several_conversations_has_its_own_adapter() -> None:
    llm, _ = talk()
    first = llm.chat([ASK, ASK], adapter=["a", None])
    history = [*ASK, first[0].messages[0].to_openai(), MORE]
    found = llm.chat([history, history, history], adapter=["a", "b", None])
    assert [one.turns[0].missed for one in found] == [None, "unknown", None]


def test_all_answers_to_a_conversation_are_remembered() -> None:
    llm, core = talk()
    (output,) = llm.chat(ASK, SamplingParams(n=3))
    llm.chat([*ASK, output.messages[2].to_openai(), MORE])
    assert followed(core)


def test_a_call_is_compared_as_a_value() -> None:
    call = "<seed:tool_call>\n<function=fly>\n<parameter=height>3</parameter>\n</function>\n</seed:tool_call>"
    tools = [{"type": "function", "function": {"name": "fly", "parameters": {"properties": {"height": {}}}}}]
    llm, core = talk(f" Up. {call}<seed:eos>")
    (output,) = llm.chat(ASK, tools=tools)
    message = output.messages[0].to_openai()
    (name, arguments) = message["tool_calls"][0]["function"].values()
    message["tool_calls"] = [{"function": {"name": name, "arguments": arguments.replace(":", " : ")}}]
    (output,) = llm.chat([*ASK, message, {"role": "tool", "content": "ok"}], tools=tools)
    assert output.turns == (TurnUse(1, None),)
    assert followed(core)


def test_an_answer_that_a_stop_string_cut_off_does_not_stand() -> None:
    llm, _ = talk("Well then", "stop_string")
    llm.chat(ASK)
    (output,) = llm.chat([*ASK, {"role": "assistant", "content": "Well then"}, MORE])
    assert output.turns == (TurnUse(1, "unfinished"),)


@pytest.mark.parametrize("messages", [["hi"], [None], [[ASK[0], "hi"]], [[*ASK, {"role": "assistant"}, 3]]])
def test_what_is_no_message_is_refused_as_before(messages: Sequence[Any]) -> None:
    llm, _ = talk()
    llm.chat(ASK)
    with pytest.raises(SeedOssError, match="message"):
        llm.chat(messages)


@pytest.mark.parametrize("settings", [{"cache_turns": "off"}, {"reuse_reasoning": "yes"}, {"cache_turns": None}])
def test_what_is_no_bool_is_refused(settings: dict[str, Any]) -> None:
    llm, core = talk()
    with pytest.raises(InputError, match=f"{next(iter(settings))} is"):
        llm.chat(ASK, **settings)
    assert core.submits == []


def test_asyncs_chats_and_streams_share_one_memory(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path, SeedOssForCausalLM, vocab_size=VOCAB_SIZE, max_position_embeddings=1024)
    tokenizer = seed_tokenizer(vocab_size=VOCAB_SIZE)
    tokenizer.save_pretrained(tmp_path)
    letters = [one for char in "abcd " for one in tokenizer.encode(char)]
    params = SamplingParams(seed=5, max_tokens=96, min_tokens=96, logit_bias=dict.fromkeys(letters, 100.0))

    async def run() -> list[Any]:
        async with AsyncLLM(str(tmp_path), threads=1) as llm:
            first = await llm.chat(ASK, params, thinking_budget=0, cache_turns=False)
            history = [*ASK, first.messages[0].to_openai(), MORE]
            unknown = await llm.chat(history, params, thinking_budget=0)
            async for _ in llm.stream_chat(ASK, params, thinking_budget=0):
                pass
            known = await llm.chat(history, params, thinking_budget=0)
            off = await llm.chat(history, params, thinking_budget=0, cache_turns=False)
            return [unknown, known, off]

    found = asyncio.run(run())
    assert [one.turns[0].missed for one in found] == ["unknown", None, "off"]
    assert found[1].request.num_cached_tokens > found[0].request.num_cached_tokens
