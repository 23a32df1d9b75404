"""Stop strings: the text is cut where they begin, and held back while they may have begun."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seed_oss.chat.control_tokens import END_THINK, Piece, join
from seed_oss.engine.messages import Ended
from seed_oss.engine.stops import StopCutter
from tests.server.api_calls import ASK, chat, engine, events, joined, post, streamed
from tests.server.fake_engine import Script


def cut(
    tokens: list[list[Piece]], stops: list[str], stop: str | None, before: str = "", *, names_it: bool = True
) -> list[str]:
    """What is shown with each token, and at the end."""
    cutter = StopCutter(stops, before)
    shown = [join(cutter.feed(pieces)) for pieces in tokens]
    ended = Ended("1", 0, "eos" if stop is None else "stop_string", stop=stop if names_it else None)
    return [*shown, join(cutter.finish([], ended))]


def test_nothing_to_look_for() -> None:
    assert cut([["a"], ["b"]], [], None) == ["a", "b", ""]


def test_a_string_over_several_tokens() -> None:
    assert cut([["one S"], ["TO"], ["P"]], ["STOP"], "STOP") == ["one ", "", "", ""]


def test_the_start_of_a_string_that_goes_on_otherwise() -> None:
    assert cut([["one S"], ["TO"], ["RE"]], ["STOP"], None) == ["one ", "", "STORE", ""]


def test_text_behind_a_string_in_its_token_is_cut_too() -> None:
    assert cut([["a"], ["b;c;d"]], [";"], ";") == ["a", "b", ""]


def test_a_match_that_ended_nothing_is_shown() -> None:
    assert cut([["a;b"], ["c;"]], [";"], ";") == ["a", ";bc", ""]


def test_overlapping_starts() -> None:
    assert "".join(cut([[char] for char in "AAAB"], ["AAB"], "AAB")) == "A"


def test_markers_count_as_text_and_stay_markers() -> None:
    cutter = StopCutter(["x</seed:think>y"])
    assert cutter.feed(["wx"]) == ["w"]
    assert cutter.feed([END_THINK]) == []
    assert cutter.feed(["z"]) == ["x", END_THINK, "z"]
    assert "".join(cut([["wx"], [END_THINK], ["y"]], ["x</seed:think>y"], "x</seed:think>y")) == "w"


def test_a_string_that_begins_in_the_prompt() -> None:
    assert cut([["\n"], ["x"]], ["\n\n"], None, before="a\n") == ["", "\nx", ""]
    assert cut([["\n"]], ["\n\n"], "\n\n", before="a\n") == ["", ""]


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3), st.data())
def test_whatever_the_tokens(text: str, stops: list[str], data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=12, max_size=12))
    found = [(text.find(one) + len(one), -len(one), one) for one in stops if one in text]
    end, _, stop = min(found, default=(len(text), 0, None))
    tokens, at = [], 0
    for size in sizes:
        if at < end:
            tokens.append([text[at : at + size]])
            at += size
    for names_it in (True, False):
        shown = "".join(cut(tokens, stops, stop, names_it=names_it))
        assert shown == (text[: end - len(stop)] if stop is not None else "".join(join(one) for one in tokens))


def _answers(script: Script, **fields: Any) -> list[str]:
    return [
        chat(engine(script), **fields).body["choices"][0]["message"]["content"],
        joined(streamed(engine(script), **fields))["content"],
    ]


def test_an_engine_that_does_not_say_which() -> None:
    script = Script("One. END of", "stop_string")
    assert _answers(script, stop=["of", "END of", "other"]) == ["One."] * 2
    assert chat(engine(script), stop=["END of"]).body["choices"][0]["stop_reason"] == "END of"
    body = {"model": "seed", "prompt": "a", "stop": ["END of"]}
    choice = post(engine(script), "/v1/completions", body).body["choices"][0]
    assert (choice["text"], choice["stop_reason"]) == ("One. ", "END of")
    body = {"model": "seed", "max_tokens": 9, "messages": ASK, "stop_sequences": ["END of"]}
    assert post(engine(script), "/v1/messages", body).body["stop_sequence"] == "END of"


def test_content_is_cut() -> None:
    script = Script("One. END of", "stop_string", stop="END of")
    assert _answers(script, stop=["END of", "other"]) == ["One."] * 2
    answer = chat(engine(script), stop="END of")
    assert answer.body["choices"][0]["stop_reason"] == "END of"
    assert answer.body["choices"][0]["finish_reason"] == "stop"


def test_thinking_is_not_cut() -> None:
    script = Script("<seed:think>An END.</seed:think>Text END", "stop_string", stop="END")
    said = chat(engine(script), stop="END").body["choices"][0]["message"]
    assert (said["reasoning"], said["content"]) == ("An END.", "Text")
    assert joined(streamed(engine(script), stop="END"))["reasoning"] == "An END."


def test_a_string_inside_the_last_token() -> None:
    client = engine(Script("an assistan", "stop_string", stop="ta"))
    assert client.tokenizer.tokenize("assistan")[-1] == "tan"
    assert chat(client, stop="ta").body["choices"][0]["message"]["content"] == "an assis"


def test_no_chunk_shows_what_is_cut_later() -> None:
    script = Script([*"One. END"], "stop_string", stop="END")
    chunks = streamed(engine(script), stop="END")
    assert "E" not in "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


def test_probabilities_are_cut_with_the_text() -> None:
    script = Script([*"On END"], "stop_string", stop="END")
    for choices in (
        chat(engine(script), stop="END", logprobs=True).body["choices"],
        [chunk["choices"][0] for chunk in streamed(engine(script), stop="END", logprobs=True)],
    ):
        probs = [one for choice in choices if choice["logprobs"] for one in choice["logprobs"]["content"]]
        assert "".join(one["token"] for one in probs) == "On "


@pytest.mark.parametrize("stream", [False, True])
def test_completions_are_cut(stream: bool) -> None:
    body = {"model": "seed", "prompt": "a\n", "stop": "\n\n", "stream": stream}
    client = engine(Script(["b\n", "\n"], "stop_string", stop="\n\n"))
    if stream:
        text = "".join(one["choices"][0]["text"] for one in events(client, "/v1/completions", body)[:-1])
    else:
        text = post(client, "/v1/completions", body).body["choices"][0]["text"]
    assert text == "b"


def test_a_completion_whose_stop_began_in_its_prompt() -> None:
    client = engine(Script(["\n", "c"], "stop_string", stop="\n\nc"))
    body = {"model": "seed", "prompt": "a\n", "stop": "\n\nc"}
    assert post(client, "/v1/completions", body).body["choices"][0]["text"] == ""
