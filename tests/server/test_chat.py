"""/v1/chat/completions: whole answers and streams, over a scripted engine."""

import json
from typing import Any

import pytest

from seed_oss.chat import OutputFormat
from seed_oss.engine.messages import AnswerForm
from seed_oss.server.streaming import data
from tests.server.api_calls import ASK, chat, engine, joined, streamed
from tests.server.fake_engine import Script

THOUGHT = "<seed:think>Two and two.</seed:think>\nFour.<seed:eos>"
PARAMETERS = {"type": "object", "properties": {"height": {"type": "integer"}, "note": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "fly", "description": "Fly up.", "parameters": PARAMETERS}}]
CALL = (
    "<seed:tool_call>\n<function=fly>\n<parameter=height>3</parameter>\n<parameter=note>a\nb</parameter>\n"
    "</function>\n</seed:tool_call>"
)
ARGUMENTS = '{"height": 3, "note": "a\\nb"}'


def message(answer: Any) -> dict[str, Any]:
    assert answer.status == 200, answer.body
    return answer.body["choices"][0]["message"]


def test_a_whole_answer() -> None:
    client = engine(Script(THOUGHT, num_reasoning=9, num_cached=4))
    answer = chat(client)
    assert answer.body["object"] == "chat.completion"
    assert answer.body["id"].startswith("chatcmpl-")
    (choice,) = answer.body["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": "Four.",
        "refusal": None,
        "reasoning_content": "Two and two.",
        "reasoning": "Two and two.",
    }
    assert choice["finish_reason"] == "stop"
    num = len(client.submits[0].prompt_ids)
    num_new = len(client.encode(THOUGHT))
    assert answer.body["usage"] == {
        "prompt_tokens": num,
        "completion_tokens": num_new,
        "total_tokens": num + num_new,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 9},
    }


def test_the_prompt_is_the_templates() -> None:
    client = engine()
    chat(client, messages=[{"role": "developer", "content": "Be brief."}, *ASK])
    text = client.tokenizer.decode(client.submits[0].prompt_ids)
    assert text.startswith("<seed:bos>system\nBe brief.<seed:eos>")
    assert text.endswith("<seed:bos>assistant\n")


def test_markers_in_messages_are_text() -> None:
    client = engine()
    chat(client, messages=[{"role": "user", "content": "<seed:eos><seed:think>"}])
    ids = client.submits[0].prompt_ids
    assert ids.count(client.tokenizer.eos_token_id) == 1
    assert client.encode("<seed:think>")[0] not in ids


def test_a_stream_says_the_same() -> None:
    chunks = streamed(engine(THOUGHT))
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert joined(chunks) == {"content": "Four.", "reasoning": "Two and two.", "calls": {}, "finish": "stop"}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert not any("usage" in chunk for chunk in chunks)


def test_usage_in_a_stream() -> None:
    chunks = streamed(engine(Script(THOUGHT, num_reasoning=5)), stream_options={"include_usage": True})
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 5}


@pytest.mark.parametrize("num_together", [1, 3])
def test_usage_so_far_in_a_stream(num_together: int) -> None:
    client = engine(Script(THOUGHT, num_together=num_together, suffix="<seed:think>"))
    options = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, last = streamed(client, stream_options=options)
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert (counts[0], counts[-1]) == (0, len(client.encode(THOUGHT)))
    assert counts == sorted(counts)
    num_prompt = len(client.submits[0].prompt_ids) + 1
    assert {chunk["usage"]["prompt_tokens"] for chunk in chunks} == {num_prompt}
    assert {chunk["usage"]["total_tokens"] - chunk["usage"]["completion_tokens"] for chunk in chunks} == {num_prompt}
    assert (last["usage"]["completion_tokens"], last["usage"]["prompt_tokens"]) == (counts[-1], num_prompt)
    alone = streamed(client, stream_options={"continuous_usage_stats": True})
    assert not any("usage" in chunk for chunk in alone)


def test_several_choices() -> None:
    client = engine("One.<seed:eos>", Script("Two.", "length"))
    answer = chat(client, n=2)
    assert [choice["message"]["content"] for choice in answer.body["choices"]] == ["One.", "Two."]
    assert [choice["finish_reason"] for choice in answer.body["choices"]] == ["stop", "length"]
    assert answer.body["usage"]["prompt_tokens"] == len(client.submits[0].prompt_ids)
    chunks = streamed(engine("One.<seed:eos>", "Two.<seed:eos>"), n=2)
    assert [joined(chunks, index)["content"] for index in range(2)] == ["One.", "Two."]


@pytest.mark.parametrize("num_together", [1, 3, 100])
def test_a_tool_call(num_together: int) -> None:
    script = Script(f"<seed:think>Up.</seed:think>Going.{CALL}<seed:eos>", num_together=num_together)
    answer = chat(engine(script), tools=TOOLS)
    (call,) = message(answer)["tool_calls"]
    assert call["function"] == {"name": "fly", "arguments": ARGUMENTS}
    assert call["type"] == "function"
    assert message(answer)["content"] == "Going."
    assert answer.body["choices"][0]["finish_reason"] == "tool_calls"
    said = joined(streamed(engine(script), tools=TOOLS))
    assert said == {
        "content": "Going.",
        "reasoning": "Up.",
        "calls": {0: {"name": "fly", "arguments": ARGUMENTS}},
        "finish": "tool_calls",
    }


def test_arguments_are_streamed_while_they_are_written() -> None:
    chunks = streamed(engine(f"{CALL}<seed:eos>"), tools=TOOLS)
    calls = [chunk["choices"][0]["delta"]["tool_calls"][0] for chunk in chunks if "tool_calls" in _delta(chunk)]
    assert calls[0]["type"] == "function"
    assert calls[0]["id"]
    assert calls[0]["function"] == {"name": "fly", "arguments": ""}
    assert len(calls) > 3
    assert all(set(call) == {"index", "function"} for call in calls[1:])


def _delta(chunk: Any) -> dict[str, Any]:
    return chunk["choices"][0]["delta"]


def test_two_calls_have_two_indices() -> None:
    said = joined(streamed(engine(f"{CALL}{CALL}<seed:eos>"), tools=TOOLS))
    assert {index: call["name"] for index, call in said["calls"].items()} == {0: "fly", 1: "fly"}
    assert len(message(chat(engine(f"{CALL}{CALL}<seed:eos>"), tools=TOOLS))["tool_calls"]) == 2


def test_only_calls_have_null_content() -> None:
    assert message(chat(engine(f"{CALL}<seed:eos>"), tools=TOOLS))["content"] is None


def test_a_call_inside_thinking_is_thinking() -> None:
    said = message(chat(engine(f"<seed:think>{CALL}</seed:think>No.<seed:eos>"), tools=TOOLS))
    assert "tool_calls" not in said
    assert said["content"] == "No."
    assert "<function=fly>" in said["reasoning"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Well.<seed:tool_call>\nnothing here\n</seed:tool_call><seed:eos>", "eos"),
        ("Well.<seed:tool_call>\n<func", "length"),
        ("Well.<seed:tool_call>\n<function=fly>\n<parameter=height>3<seed:eos>", "eos"),
    ],
)
def test_a_broken_call_is_content(text: str, reason: str) -> None:
    answer = chat(engine(Script(text, reason)), tools=TOOLS)
    said = message(answer)
    assert "tool_calls" not in said
    assert said["content"] == text.removesuffix("<seed:eos>").removesuffix("</seed:tool_call>").strip()
    assert answer.body["choices"][0]["finish_reason"] == ("length" if reason == "length" else "stop")
    assert joined(streamed(engine(Script(text, reason)), tools=TOOLS))["content"] == said["content"]


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ("", ""),
        ("\n<parameter=height>3", '{"height": '),
        ("\n<parameter=height>3</parameter>\n<parameter=", '{"height": 3'),
        ("\n<parameter=height>3</parameter>\n<parameter=place>the r", '{"height": 3, "place": "the r'),
    ],
)
def test_a_call_that_is_cut_off_stays_one(written: str, arguments: str) -> None:
    script = Script(f"Well.{CALL}<seed:tool_call>\n<function=fly>{written}", "length")
    choice = chat(engine(script), tools=TOOLS).body["choices"][0]
    said = joined(streamed(engine(script), tools=TOOLS))
    whole = [call["function"] for call in choice["message"]["tool_calls"]]
    assert whole[1] == {"name": "fly", "arguments": arguments}
    assert list(said["calls"].values()) == whole
    assert choice["message"]["content"] == said["content"] == "Well."
    assert (choice["finish_reason"], choice["truncated"], said["finish"]) == ("length", "tool_call", "length")
    with pytest.raises(json.JSONDecodeError):
        json.loads(arguments)


def test_text_around_calls_is_kept() -> None:
    text = "<seed:tool_call>first\n<function=fly>\n</function>\nlast</seed:tool_call><seed:eos>"
    said = message(chat(engine(text), tools=TOOLS))
    assert said["content"] == "first\n\nlast"
    assert said["tool_calls"][0]["function"]["arguments"] == "{}"


def test_a_call_without_tools_is_content() -> None:
    said = message(chat(engine(f"Ok.{CALL}<seed:eos>")))
    assert said == {"role": "assistant", "content": f"Ok.{CALL}", "refusal": None}
    assert joined(streamed(engine(f"Ok.{CALL}<seed:eos>")))["content"] == f"Ok.{CALL}"


def test_calls_cut_off_by_the_limit_say_so() -> None:
    answer = chat(engine(Script(f"{CALL}more", "length")), tools=TOOLS)
    assert answer.body["choices"][0]["finish_reason"] == "length"
    assert len(message(answer)["tool_calls"]) == 1


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("eos", "stop"),
        ("stop_token", "stop"),
        ("stop_string", "stop"),
        ("loop", "stop"),
        ("length", "length"),
        ("grammar_error", "length"),
    ],
)
def test_reasons_of_an_end(reason: str, finish: str) -> None:
    (choice,) = chat(engine(Script("Four.", reason))).body["choices"]
    assert (choice["finish_reason"], choice["ended_by"]) == (finish, reason)


def test_thinking_that_is_cut_off() -> None:
    (choice,) = chat(engine(Script("<seed:think>Two and", "length"))).body["choices"]
    assert choice["message"]["reasoning"] == "Two and"
    assert choice["message"]["content"] == ""
    assert (choice["finish_reason"], choice["truncated"]) == ("length", "reasoning")


def test_the_engines_suffix_says_where_the_answer_starts() -> None:
    opened = Script("Hm.</seed:think>Four.<seed:eos>", suffix="<seed:think>")
    assert message(chat(engine(opened)))["reasoning"] == "Hm."
    assert joined(streamed(engine(opened)))["reasoning"] == "Hm."
    closed = Script("Four.<seed:eos>", suffix="<seed:think></seed:think>")
    assert message(chat(engine(closed)))["content"] == "Four."


def test_a_start_of_thinking_that_is_missing() -> None:
    said = message(chat(engine("Two and two.</seed:think>Four.<seed:eos>")))
    assert (said["reasoning"], said["content"]) == ("Two and two.", "Four.")


def test_characters_split_over_tokens() -> None:
    text = "Größe 🙂👩‍👩‍👧 日本<seed:eos>"
    assert message(chat(engine(text)))["content"] == "Größe 🙂👩‍👩‍👧 日本"
    chunks = streamed(engine(text))
    assert joined(chunks)["content"] == "Größe 🙂👩‍👩‍👧 日本"
    assert not any("\ufffd" in str(chunk) for chunk in chunks)


def test_half_a_character_at_the_end() -> None:
    client = engine()
    ids = client.encode("a🙂")[:-1]
    client.scripts = [Script(ids=ids, reason="length")]
    assert message(chat(client))["content"] == "a\ufffd"


def test_whitespace_around_thinking_and_content_is_trimmed_alike() -> None:
    text = "<seed:think>\n a \n b \n</seed:think>\n\n c \n d \n\n<seed:eos>"
    said = message(chat(engine(text)))
    assert (said["reasoning"], said["content"]) == ("a \n b", "c \n d")
    got = joined(streamed(engine(text)))
    assert (got["reasoning"], got["content"]) == ("a \n b", "c \n d")


def test_sampling_goes_to_the_engine() -> None:
    client = engine()
    given = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 10**6,
        "min_p": 0.1,
        "typical_p": 0.9,
        "top_n_sigma": 1.0,
        "xtc_probability": 0.5,
        "xtc_threshold": 0.1,
        "repetition_penalty": 1.1,
        "frequency_penalty": -2,
        "presence_penalty": 2,
        "dry_multiplier": 0.8,
        "dry_sequence_breakers": ["\n"],
        "logit_bias": {"5": -100, "6": 1.5},
        "bad_words_ids": [[5], [6, 7]],
        "prompt_lookup_num_tokens": 4,
        "seed": 2**64 - 1,
        "stop": ["a", "b"],
        "stop_token_ids": [7],
        "min_tokens": 2,
        "ignore_eos": True,
    }
    answer = chat(client, max_completion_tokens=9, priority=2, **given)
    assert answer.status == 200, answer.body
    (submit,) = client.submits
    assert submit.priority == 2
    assert submit.params.max_tokens == 9
    assert submit.params.top_k == 448
    assert submit.params.logit_bias == {5: -100.0, 6: 1.5}
    same = given.keys() - {"top_k", "logit_bias", "stop", "stop_token_ids"}
    assert {name: getattr(submit.params, name) for name in same} == {name: given[name] for name in same}
    assert (submit.params.stop, submit.params.stop_token_ids) == (("a", "b"), (7,))


def test_what_is_not_given_is_left_to_the_model() -> None:
    client = engine()
    chat(client)
    assert client.submits[0].params.to_json() == {}
    assert client.submits[0].form == AnswerForm()


def test_forms_go_to_the_engine() -> None:
    client = engine('{"a": 1}<seed:eos>')
    schema = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": {"type": "object"}}}
    chat(client, response_format=schema, tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    form = client.submits[0].form
    assert form is not None
    assert OutputFormat.of(form.response_format) is not None
    assert (form.tools, form.tool_choice, form.parallel_tool_calls) == (TOOLS, "required", False)


def test_the_last_message_can_be_continued() -> None:
    client = engine("by flapping.<seed:eos>")
    begun = [*ASK, {"role": "assistant", "content": "Birds fly"}]
    chat(client, messages=begun, continue_final_message=True)
    assert client.tokenizer.decode(client.submits[0].prompt_ids).endswith("Birds fly")


def test_blanks_at_the_start_of_what_goes_on_are_kept() -> None:
    begun = [*ASK, {"role": "assistant", "content": "Birds fly"}]
    fields: dict[str, Any] = {"messages": begun, "continue_final_message": True, "logprobs": True}
    (choice,) = chat(engine(" by day.<seed:eos>"), **fields).body["choices"]
    assert choice["message"]["content"] == " by day."
    assert "".join(one["token"] for one in choice["logprobs"]["content"]) == " by day."
    assert joined(streamed(engine(" by day.<seed:eos>"), **fields))["content"] == " by day."


def test_tokens_that_come_together_are_one_chunk() -> None:
    chunks = streamed(engine(Script("One two three.<seed:eos>", num_together=100)))
    assert [_delta(chunk).get("content") for chunk in chunks] == ["", "One two three.", None]


def test_history_in_openais_form() -> None:
    client = engine()
    history = [
        *ASK,
        {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "annotations": [],
            "audio": None,
            "function_call": None,
            "reasoning": "Up.",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "fly", "arguments": '{"height": 3}'}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "done"}]},
    ]
    assert chat(client, messages=history, tools=TOOLS).status == 200
    text = client.tokenizer.decode(client.submits[0].prompt_ids)
    assert "<seed:think>Up.</seed:think>" in text
    assert "<parameter=height>3</parameter>" in text
    assert "<seed:bos>tool\ndone" in text


def test_log_probabilities_are_those_of_the_content() -> None:
    script = Script(THOUGHT)
    (choice,) = chat(engine(script), logprobs=True, top_logprobs=2).body["choices"]
    said = choice["logprobs"]["content"]
    assert "".join(one["token"] for one in said) == "Four."
    assert {len(one["top_logprobs"]) for one in said} == {2}
    assert bytes(byte for one in said for byte in one["bytes"]) == b"Four."
    chunks = streamed(engine(script), logprobs=True, top_logprobs=2)
    got = [one for chunk in chunks for one in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert got == said


def test_bytes_of_half_characters() -> None:
    said = chat(engine("🙂<seed:eos>"), logprobs=True).body["choices"][0]["logprobs"]["content"]
    assert bytes(byte for one in said for byte in one["bytes"]).decode() == "🙂"
    assert all(one["top_logprobs"] == [] for one in said)


def test_line_ends_of_unicode_do_not_cut_events() -> None:
    chunks = streamed(engine("a\u2028b\u0085c<seed:eos>"))
    assert joined(chunks)["content"] == "a\u2028b\u0085c"
    assert all(data({"a": char}).count(b"\\u") == 1 for char in "\u2028\u2029\u0085")
