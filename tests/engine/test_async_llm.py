"""The engine in a process of its own, from Python: the answers of LLM, as they come."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from seed_oss import (
    LLM,
    SamplingParams,
    SeedOssForCausalLM,
    SeedOssForQuestionAnswering,
    SeedOssForSequenceClassification,
    SeedOssForTokenClassification,
)
from seed_oss.chat.events import ContentDelta
from seed_oss.engine.async_llm import AsyncLLM
from seed_oss.errors import InputError
from tests.factory import tiny_checkpoint
from tests.lora import saved
from tests.seed_tokenizer import seed_tokenizer

VOCAB_SIZE = 400
GREEDY = SamplingParams(temperature=0, max_tokens=12, min_tokens=12)
ASK = [{"role": "user", "content": "abc"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny_checkpoint(path, SeedOssForCausalLM, vocab_size=VOCAB_SIZE, max_position_embeddings=1024)
    seed_tokenizer(vocab_size=VOCAB_SIZE).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def whole(folder: Path) -> LLM:
    return LLM(folder)


def ask(folder: Path, talk: Callable[[AsyncLLM], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with AsyncLLM(str(folder), threads=1) as llm:
            return await talk(llm)

    return asyncio.run(run())


def test_many_tasks_get_what_llm_answers_whole_and_in_pieces(folder: Path, whole: LLM) -> None:
    prompts = ["abc", "a longer prompt than that", "x"]
    expected = whole.generate(prompts, GREEDY)
    stop = SamplingParams(temperature=0, max_tokens=12, stop=expected[0].outputs[0].text[3:5])
    cut = whole.generate(["abc"], stop)[0].outputs[0]

    async def talk(llm: AsyncLLM) -> Any:
        found = await asyncio.gather(*(llm.generate(one, GREEDY) for one in prompts))
        pieces = [[piece async for piece in llm.stream(one, GREEDY)] for one in prompts]
        short = [piece async for piece in llm.stream("abc", stop)]
        return found, pieces, short, (await llm.embed("abc")).values

    found, pieces, short, vector = ask(folder, talk)
    assert found == expected
    assert ["".join(piece.text for piece in one) for one in pieces] == [one.outputs[0].text for one in expected]
    assert [one[-1].finish_reason for one in pieces] == ["length"] * 3
    assert ("".join(piece.text for piece in short), short[-1].finish_reason) == (cut.text, "stop_string")
    assert vector == whole.embed("abc")[0].values


def test_adapters_and_scores_are_those_of_llm(folder: Path, tmp_path: Path) -> None:
    saved(tmp_path / "tuned", 1, SeedOssForCausalLM.from_pretrained(folder))
    lora = {"tuned": tmp_path / "tuned"}
    whole = LLM(folder, lora=lora)

    async def run() -> Any:
        async with AsyncLLM(str(folder), threads=1, lora=lora) as llm:
            texts = [(await llm.generate("abc", GREEDY, adapter=name)).outputs for name in (None, "tuned")]
            pieces = [piece async for piece in llm.stream("abc", GREEDY, adapter="tuned")]
            said = (await llm.chat(ASK, GREEDY, adapter="tuned", thinking_budget=0)).messages
            with pytest.raises(InputError, match="task is 'classify'"):
                await llm.classify("abc")
            numbers = await llm.score("abc", adapter="tuned"), await llm.embed("abc", adapter="tuned")
            return texts, "".join(one.text for one in pieces), said, numbers

    texts, text, said, numbers = asyncio.run(run())
    assert texts == [whole.generate("abc", GREEDY, adapter=name)[0].outputs for name in (None, "tuned")]
    assert text == texts[1][0].text
    assert texts[0] != texts[1]
    assert said == whole.chat(ASK, GREEDY, adapter="tuned", thinking_budget=0)[0].messages
    assert numbers == (whole.score("abc", adapter="tuned")[0], whole.embed("abc", adapter="tuned")[0])


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (SeedOssForSequenceClassification, "classify"),
        (SeedOssForTokenClassification, "classify_tokens"),
        (SeedOssForQuestionAnswering, "find_answers"),
    ],
)
def test_other_heads_answer_as_in_llm(kind: Any, name: str, tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path, kind)
    expected = getattr(LLM(tmp_path), name)([[5, 6, 7]])[0]

    async def talk(llm: AsyncLLM) -> Any:
        return await getattr(llm, name)([5, 6, 7])

    assert ask(tmp_path, talk) == expected


def test_chats_as_messages_and_as_events(folder: Path, whole: LLM) -> None:
    expected = whole.chat(ASK, GREEDY, thinking_budget=0)[0]

    async def talk(llm: AsyncLLM) -> Any:
        events = [one async for one in llm.stream_chat(ASK, GREEDY, thinking_budget=0)]
        return await llm.chat(ASK, GREEDY, thinking_budget=0), events

    found, events = ask(folder, talk)
    assert (found.messages, found.request.outputs) == (expected.messages, expected.request.outputs)
    said = "".join(one.text for one in events if isinstance(one, ContentDelta))
    assert said.strip() == (expected.messages[0].content or "").strip()


def test_a_stream_that_is_left_ends_its_request(folder: Path) -> None:
    async def talk(llm: AsyncLLM) -> int:
        async for _ in llm.stream("abc", SamplingParams(max_tokens=900, min_tokens=900)):
            break
        await llm.generate("x", GREEDY)
        return llm._client.num_requests

    assert ask(folder, talk) == 0


def test_what_cannot_be_is_said(folder: Path) -> None:
    with pytest.raises(InputError, match="max_num_sequences"):
        AsyncLLM(str(folder), max_num_sequences=3)
    with pytest.raises(InputError, match="lora is no mapping"):
        AsyncLLM(str(folder), lora=3)
    with pytest.raises(InputError, match="max_num_seqs is 'three'"):
        AsyncLLM(str(folder), max_num_seqs="three")

    async def talk(llm: AsyncLLM) -> None:
        with pytest.raises(InputError, match="prompt is empty"):
            await llm.generate([])
        with pytest.raises(InputError, match="budget"):
            await llm.chat(ASK, budget=3)
        with pytest.raises(InputError, match="n is 2"):
            async for _ in llm.stream_chat(ASK, SamplingParams(n=2)):
                pass

    ask(folder, talk)
