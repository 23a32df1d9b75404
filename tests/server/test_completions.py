"""/v1/completions, and the endpoints that give numbers or tokens."""

import base64
import math
import struct
import threading
from typing import Any

import pytest

from seed_oss.engine.client import RequestEvent
from seed_oss.engine.messages import Computed, Submit
from seed_oss.server import completions, scoring, streaming
from seed_oss.server.work import WorkPool
from tests.seed_tokenizer import seed_tokenizer
from tests.server.api_calls import ASK, MODEL, engine, events, http, post, run
from tests.server.fake_engine import FakeEngine, Script, probs

TEXT = "/v1/completions"


def complete(client: FakeEngine, prompt: Any, **fields: Any) -> Any:
    answer = post(client, TEXT, {"model": MODEL, "prompt": prompt, **fields})
    assert answer.status == 200, answer.body
    return answer.body


def test_a_text() -> None:
    client = engine(Script("Four.<seed:eos>", num_cached=1))
    body = complete(client, "2 + 2 =")
    (choice,) = body["choices"]
    assert (choice["text"], choice["finish_reason"], choice["logprobs"]) == ("Four.", "stop", None)
    (submit,) = client.submits
    assert submit.form is None
    assert submit.params.max_tokens == 16
    assert client.tokenizer.decode(submit.prompt_ids) == "2 + 2 ="
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}


@pytest.mark.parametrize(
    ("prompt", "rows"),
    [("a", [[73]]), (["a", "b"], [[73], [74]]), ([73, 74], [[73, 74]]), ([[73], [74, 75]], [[73], [74, 75]])],
)
def test_every_form_of_a_prompt(prompt: Any, rows: list[list[int]]) -> None:
    client = engine()
    complete(client, prompt)
    assert [list(submit.prompt_ids) for submit in client.submits] == rows


def test_prompts_times_choices_are_in_order() -> None:
    client = engine(*(f"{word}.<seed:eos>" for word in ("A", "B", "C", "D")))
    body = complete(client, ["x", "y"], n=2)
    assert [(one["index"], one["text"]) for one in body["choices"]] == [(0, "A."), (1, "B."), (2, "C."), (3, "D.")]
    assert body["usage"]["prompt_tokens"] == 2
    client = engine(*(f"{word}.<seed:eos>" for word in ("A", "B", "C", "D")))
    chunks = events(client, TEXT, {"model": MODEL, "prompt": ["x", "y"], "n": 2, "stream": True})[:-1]
    texts = {
        index: "".join(one["choices"][0]["text"] for one in chunks if one["choices"][0]["index"] == index)
        for index in range(4)
    }
    assert texts == {0: "A.", 1: "B.", 2: "C.", 3: "D."}


@pytest.mark.parametrize("stream", [False, True])
def test_echo_with_probabilities(stream: bool) -> None:
    body = {"model": MODEL, "prompt": "Größe", "echo": True, "logprobs": 2}
    if stream:
        chunks = [one["choices"][0] for one in events(engine(), TEXT, {**body, "stream": True})[:-1]]
        text = "".join(one["text"] for one in chunks)
        said = {name: [x for one in chunks for x in one["logprobs"][name]] for name in chunks[0]["logprobs"]}
    else:
        (choice,) = post(engine(), TEXT, body).body["choices"]
        text, said = choice["text"], choice["logprobs"]
    assert text == "GrößeFour."
    assert said["token_logprobs"] == [None] + [-0.5] * (len(said["tokens"]) - 1)
    assert said["top_logprobs"][0] is None
    assert {len(one) for one in said["top_logprobs"][1:]} <= {1, 2}
    assert said["text_offset"] == sorted(said["text_offset"])
    assert said["text_offset"][said["tokens"].index("F")] == len("Größe")


class LateEngine(FakeEngine):
    """The other choices find the prompt in the cache, and say something before its probabilities are there."""

    def _events(self, request: Submit) -> list[RequestEvent]:
        events = super()._events(request)
        computed = next(one for one in events if isinstance(one, Computed))
        early = [one for one in events if getattr(one, "choice", 0) == 1]
        rest = [one for one in events if one not in early and one is not computed]
        return [rest[0], *early, computed, *rest[1:]]


def test_echo_with_probabilities_that_come_late() -> None:
    body = {"model": MODEL, "prompt": "ab", "echo": True, "logprobs": 1, "n": 2, "stream": True}
    chunks = [one["choices"][0] for one in events(LateEngine(seed_tokenizer()), TEXT, body)[:-1]]
    for index in range(2):
        own = [one for one in chunks if one["index"] == index]
        assert "".join(one["text"] for one in own) == "abFour."
        assert [x for one in own for x in one["logprobs"]["tokens"]][:3] == ["a", "b", "F"]
        assert [one["finish_reason"] for one in own if one["finish_reason"]] == ["stop"]


@pytest.mark.parametrize(
    ("path", "body", "module", "name"),
    [
        (TEXT, {"prompt": "ab", "echo": True, "logprobs": 1}, completions, "_prompt_form"),
        (TEXT, {"prompt": "ab", "echo": True, "logprobs": 1, "stream": True}, completions, "_prompt_form"),
        ("/score", {"input": "ab", "logprobs": 1}, scoring, "_scored"),
        ("/token_classify", {"input": "ab"}, scoring, "_class"),
    ],
)
def test_what_long_prompts_have_is_not_written_on_the_event_loop(
    path: str, body: Any, module: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    made = getattr(module, name)

    def seen(*args: Any) -> Any:
        threads.append(threading.current_thread())
        return made(*args)

    monkeypatch.setattr(module, name, seen)

    async def work() -> int:
        async with http(engine()) as caller:
            return (await caller.post(path, json={"model": MODEL, **body})).status_code

    assert run(work()) == 200
    assert threads
    assert threading.main_thread() not in threads


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (TEXT, {"prompt": "ab " * 500, "echo": True, "logprobs": 5}),
        (TEXT, {"prompt": "ab " * 500, "echo": True, "logprobs": 5, "stream": True}),
        (TEXT, {"prompt": "ab " * 20_000, "echo": True}),
        ("/v1/chat/completions", {"messages": ASK, "logprobs": True, "top_logprobs": 20}),
        ("/v1/messages", {"messages": ASK, "max_tokens": 9}),
        ("/v1/responses", {"input": "ab", "instructions": "ab " * 20_000}),
        ("/v1/responses", {"input": "ab", "instructions": "ab " * 20_000, "stream": True}),
        ("/v1/embeddings", {"input": ["ab"] * 1000}),
        ("/classify", {"input": ["ab"] * 1000}),
        ("/tokenize", {"prompt": "ab " * 9000}),
    ],
)
def test_a_large_answer_is_not_serialised_on_the_event_loop(
    path: str, body: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    large: list[threading.Thread] = []
    to_json = streaming.to_json

    def seen(value: Any) -> bytes:
        written = to_json(value)
        if len(written) > 2**15:
            large.append(threading.current_thread())
        return written

    monkeypatch.setattr(streaming, "to_json", seen)
    client = engine("Four. " * 8000 if path == "/v1/messages" else "Four. " * 100, max_model_len=2**17)

    async def work() -> int:
        async with http(client) as caller:
            return (await caller.post(path, json={"model": MODEL, **body})).status_code

    assert run(work()) == 200
    assert large
    assert threading.main_thread() not in large


def test_a_short_answer_waits_for_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WorkPool, "finish", None)
    assert complete(engine(), "ab", echo=True)["choices"][0]["text"].startswith("ab")


def test_echo_alone() -> None:
    (choice,) = complete(engine(), "ab", echo=True, max_tokens=0, logprobs=0)["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("ab", "length")
    assert choice["logprobs"]["tokens"] == ["a", "b"]
    assert post(engine(), TEXT, {"model": MODEL, "prompt": "a", "max_tokens": 0}).error["param"] == "max_tokens"


def test_markers_of_chat_are_shown_but_for_the_end() -> None:
    (choice,) = complete(engine("<seed:think>x</seed:think>y<seed:eos>"), "a")["choices"]
    assert choice["text"] == "<seed:think>x</seed:think>y"


def test_characters_split_over_tokens_in_a_stream() -> None:
    chunks = events(engine("日本🙂<seed:eos>"), TEXT, {"model": MODEL, "prompt": "a", "stream": True})[:-1]
    assert "".join(one["choices"][0]["text"] for one in chunks) == "日本🙂"


def _vector(submit: Submit) -> Computed:
    return Computed(submit.request_id, values=((3.0, 4.0),))


def test_embeddings() -> None:
    client = engine(computed=_vector)
    answer = post(client, "/v1/embeddings", {"model": MODEL, "input": ["a", "bb"], "pooling": "mean"})
    assert [one["embedding"] for one in answer.body["data"]] == [[0.6, 0.8]] * 2
    assert answer.body["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert [(submit.task, submit.options) for submit in client.submits] == [("embed", {"pooling": "mean"})] * 2


@pytest.mark.parametrize("path", ["/v1/embeddings", "/score", "/classify", "/token_classify"])
def test_markers_in_inputs_are_text(path: str) -> None:
    client = engine()
    assert post(client, path, {"input": ["a<seed:eos><seed:think>b", "ab"]}).status == 200
    marked, plain = (submit.prompt_ids for submit in client.submits)
    assert set(marked).isdisjoint(client.encode("<seed:eos><seed:think>"))
    assert list(plain) == client.encode("ab")
    assert client.tokenizer.decode(marked) == "a<seed:eos><seed:think>b"


def test_markers_in_prompts_count() -> None:
    client = engine()
    complete(client, "a<seed:think>")
    assert list(client.submits[0].prompt_ids) == client.encode("a<seed:think>")


def test_embeddings_in_base64() -> None:
    answer = post(engine(computed=_vector), "/v1/embeddings", {"input": "a", "encoding_format": "base64"})
    assert struct.unpack("<2f", base64.b64decode(answer.body["data"][0]["embedding"])) == pytest.approx([0.6, 0.8])


def test_embeddings_cut_and_as_they_are() -> None:
    assert post(engine(computed=_vector), "/v1/embeddings", {"input": "a", "dimensions": 1}).body["data"][0][
        "embedding"
    ] == [1.0]
    answer = post(engine(computed=_vector), "/v1/embeddings", {"input": "a", "dimensions": 3})
    assert answer.error["param"] == "dimensions"
    answer = post(engine(computed=_vector), "/v1/embeddings", {"input": "a", "normalize": False})
    assert answer.body["data"][0]["embedding"] == [3.0, 4.0]


def test_what_is_asked_of_the_engine() -> None:
    client = engine(computed=_vector)
    post(client, "/v1/embeddings", {"input": "a", "normalize": False, "dimensions": 1})
    assert [submit.options for submit in client.submits] == [{"normalize": False}]


def test_more_inputs_than_at_once() -> None:
    client = engine(computed=_vector)
    answer = post(client, "/v1/embeddings", {"input": ["a"] * 70})
    assert [one["index"] for one in answer.body["data"]] == list(range(70))
    assert post(client, "/v1/embeddings", {"input": ["a"] * 2048}).status == 200
    assert post(client, "/v1/embeddings", {"input": ["a"] * 2049}).error["param"] == "input"


def test_numbers_that_are_none() -> None:
    client = engine(computed=lambda submit: Computed(submit.request_id, values=((math.nan, 1.0),)))
    assert post(client, "/v1/embeddings", {"input": "a"}).status == 500
    assert post(client, "/classify", {"input": "a"}).status == 500


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": "a"}),
        ("/score", {"input": "a"}),
        ("/classify", {"input": "a"}),
        ("/token_classify", {"input": "a"}),
        ("/question_answering", {"question": "a", "context": "b"}),
    ],
)
def test_a_task_that_the_engine_has_not(path: str, body: dict[str, Any]) -> None:
    answer = post(engine(tasks=("generate",)), path, body)
    assert (answer.status, answer.error["code"]) == (404, "task_not_available")
    assert "it can generate" in answer.error["message"]
    assert post(engine(tasks=()), TEXT, {"model": MODEL, "prompt": "a"}).status == 404


def test_scores() -> None:
    client = engine(computed=lambda submit: Computed(submit.request_id, logprobs=probs(submit.prompt_ids, 1)))
    answer = post(client, "/score", {"input": ["ab", "c"], "context": "x", "logprobs": 1})
    assert [(one["logprob"], one["num_tokens"]) for one in answer.body["data"]] == [(-1.0, 2), (-0.5, 1)]
    assert answer.body["data"][0]["perplexity"] == pytest.approx(math.exp(0.5))
    assert answer.body["data"][0]["tokens"]["tokens"] == ["a", "b"]
    alone = post(client, "/score", {"input": "ab"}).body["data"][0]
    assert (alone["logprob"], alone["num_tokens"]) == (-0.5, 1)  # a first token has no probability
    assert client.submits[-1].params.prompt_logprobs == 0


def test_classes() -> None:
    client = engine(computed=lambda submit: Computed(submit.request_id, values=((0.0, math.log(3.0)),)))
    (one,) = post(client, "/classify", {"input": "a"}).body["data"]
    assert (one["label"], one["num_classes"]) == ("good", 2)
    assert one["probs"] == pytest.approx([0.25, 0.75])


def test_classes_of_tokens() -> None:
    client = engine(computed=lambda submit: Computed(submit.request_id, values=((1.0, 0.0), (0.0, 1.0))))
    (one,) = post(client, "/token_classify", {"input": "ab"}).body["data"]
    assert [(token["token"], token["label"]) for token in one["tokens"]] == [("a", "bad"), ("b", "good")]


def test_an_answer_in_a_text() -> None:
    context = "It is in Paris, France."

    def marked(submit: Submit) -> Computed:
        texts = [client.tokenizer.decode([token]) for token in submit.prompt_ids]
        start = max(at for at, text in enumerate(texts) if "P" in text)
        end = max(at for at, text in enumerate(texts) if "," in text) - 1
        return Computed(
            submit.request_id, values=tuple((float(at == start), float(at == end)) for at in range(len(texts)))
        )

    client = engine(computed=marked)
    (one,) = post(client, "/question_answering", {"question": "Where?", "context": context}).body["data"]
    assert one["answer"] == "Paris"
    assert context[one["start"] : one["end"]] == one["answer"]
    assert one["score"] == 2.0
    short = post(client, "/question_answering", {"question": "?", "context": context, "max_answer_tokens": 1})
    assert short.body["data"][0]["score"] == 1.0


def test_tokens_of_a_text() -> None:
    answer = post(engine(), "/tokenize", {"prompt": "Größe", "return_token_strs": True})
    assert answer.body["count"] == len(answer.body["tokens"]) == len(answer.body["token_strs"])
    assert answer.body["max_model_len"] == 4096
    back = post(engine(), "/detokenize", {"tokens": answer.body["tokens"]})
    assert back.body == {"prompt": "Größe"}
    assert post(engine(), "/detokenize", {"tokens": []}).body == {"prompt": ""}


def test_tokens_of_a_conversation_are_those_of_the_chat() -> None:
    client = engine()
    body = {"messages": ASK, "thinking_budget": 512}
    answer = post(client, "/tokenize", body)
    post(client, "/v1/chat/completions", {"model": MODEL, **body})
    assert tuple(answer.body["tokens"]) == client.submits[0].prompt_ids
    short = post(client, "/tokenize", {**body, "add_generation_prompt": False})
    assert short.body["count"] < answer.body["count"]


@pytest.mark.parametrize("body", [{}, {"prompt": "a", "messages": ASK}, {"prompt": 3}, {"messages": []}])
def test_tokens_of_nothing(body: dict[str, Any]) -> None:
    assert post(engine(), "/tokenize", body).status == 400


@pytest.mark.parametrize("tokens", [None, "a", [448], [-1], [1.0], [[1]], ["a"]])
def test_tokens_that_are_none(tokens: Any) -> None:
    assert post(engine(), "/detokenize", {"tokens": tokens}).status == 400
