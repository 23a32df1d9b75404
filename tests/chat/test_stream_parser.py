"""Blocks of an answer: thinking, reflections, content; where it starts and how it ends."""

import pytest

from seed_oss.chat import StreamParser, parse
from seed_oss.chat.answer_start import STARTS, answer_start
from seed_oss.chat.control_tokens import (
    BOS,
    END_REFLECT,
    END_THINK,
    END_TOOL_CALL,
    EOS,
    PAD,
    REFLECT,
    THINK,
    ControlToken,
)
from seed_oss.chat.events import (
    AnswerEnded,
    ContentDelta,
    Event,
    Finished,
    LateThinkEnd,
    ReasoningDelta,
    Reflection,
    StrayToken,
    ThinkClosed,
    ThinkOpened,
    ToolCallStarted,
    TrailingText,
    merged,
)
from seed_oss.chat.reflections import MAX_REFLECTION_LEN, reflected_numbers
from seed_oss.errors import InputError, StateError
from tests.chat.answer_texts import characters, events_of

COUNTS = "I have used 129 tokens, and there are 383 tokens remaining for use."
SPENT = "I have exhausted my token budget, and now I will start answering the question."
NO_BUDGET = "The current thinking budget is 0, so I will directly start answering the question."
CALL = "<seed:tool_call>\n<function=now>\n</function>\n</seed:tool_call>"
END = Finished("", None, ended=False)


def read(text: str, **arguments: object) -> list[Event]:
    """The merged events of a text in which markers count."""
    return merged(events_of([text], **arguments))


def test_thinking_then_content() -> None:
    assert read("<seed:think>Hm.</seed:think>\nYes.<seed:eos>") == [
        ThinkOpened("<seed:think>"),
        ReasoningDelta("Hm."),
        ThinkClosed("</seed:think>"),
        ContentDelta("\nYes."),
        AnswerEnded("<seed:eos>"),
        Finished("", None, ended=True),
    ]


def test_content_alone() -> None:
    assert read("Yes.") == [ContentDelta("Yes."), END]
    assert read("") == [END]


def test_a_call_inside_thinking_is_reasoning() -> None:
    message = parse(f"<seed:think>I could write {CALL}.</seed:think>Done.")
    assert message.reasoning == f"I could write {CALL}."
    assert (message.tool_calls, message.broken_calls, message.content) == ((), (), "Done.")


def test_several_think_blocks() -> None:
    message = parse("<seed:think> a </seed:think>one, <seed:think>b</seed:think><seed:think> </seed:think>two ")
    assert (message.reasoning, message.content) == ("a\n\nb", "one, two")


def test_text_comes_at_once_but_for_the_beginning_of_a_marker() -> None:
    parser = StreamParser()
    assert parser.feed("Yes <seed:thi") == [ContentDelta("Yes ")]
    assert parser.feed("s") == [ContentDelta("<seed:this")]
    assert parser.feed("<") == []
    assert parser.feed("b>") == [ContentDelta("<b>")]
    assert parser.feed("</seed:thin") == []
    assert parser.finish() == [ContentDelta("</seed:thin"), END]


class TestPlainText:
    def test_only_control_tokens_open_and_close(self) -> None:
        pieces = [THINK, "not </seed:think> yet", END_THINK, "<seed:tool_call>", "<seed:eos>"]
        message = parse(pieces)
        assert message.reasoning == "not </seed:think> yet"
        assert message.content == "<seed:tool_call><seed:eos>"
        assert not message.ended

    def test_characters_of_a_marker_stay_content(self) -> None:
        assert parse(list("<seed:think>a</seed:think>")).content == "<seed:think>a</seed:think>"

    def test_a_string_is_scanned(self) -> None:
        assert parse("<seed:think>a</seed:think>b").reasoning == "a"

    def test_control_tokens_count_where_text_is_scanned_too(self) -> None:
        events = merged(events_of(["a<seed:", THINK, "b</seed:think>c"]))
        assert " ".join(event.kind for event in events) == (
            "content think_opened reasoning think_closed content finished"
        )


class TestStart:
    @pytest.mark.parametrize("start", ["thinking", "reflecting"])
    def test_thinking_was_open(self, start: str) -> None:
        message = parse(f"{NO_BUDGET}</seed:cot_budget_reflect>\n</seed:think>Yes.", start=start)
        assert (message.content, message.late_think_end) == ("Yes.", False)
        assert [(reflection.used, reflection.remaining) for reflection in message.reflections] == [(0, 0)]

    def test_a_reflection_open_in_the_prompt_is_balanced_in_the_message(self) -> None:
        message = parse(f"{NO_BUDGET}</seed:cot_budget_reflect>\n</seed:think>Yes.", start="reflecting")
        assert message.reasoning == f"<seed:cot_budget_reflect>{NO_BUDGET}</seed:cot_budget_reflect>"

    def test_late_end_without_a_start(self) -> None:
        events = read("So it is.</seed:think>Yes.")
        assert events == [ContentDelta("So it is."), LateThinkEnd("</seed:think>"), ContentDelta("Yes."), END]
        message = parse("So it is.</seed:think>Yes.")
        assert (message.reasoning, message.content, message.late_think_end) == ("So it is.", "Yes.", True)

    def test_late_end_takes_calls_back(self) -> None:
        message = parse(f"I could {CALL}, or not.</seed:think>Yes. {CALL}")
        assert message.reasoning == f"I could {CALL}, or not."
        assert (message.content, len(message.tool_calls)) == ("Yes.", 1)

    def test_late_end_inside_an_open_call(self) -> None:
        message = parse("a<seed:tool_call>\n<function=now>\n</seed:think>Yes.")
        assert message.reasoning == "a<seed:tool_call>\n<function=now>"
        assert (message.content, message.broken_calls, message.truncated) == ("Yes.", (), None)

    @pytest.mark.parametrize("text", ["<seed:think>a</seed:think>b</seed:think>c", "b</seed:think>c</seed:think>d"])
    def test_a_late_end_comes_once_and_before_any_thinking(self, text: str) -> None:
        assert StrayToken("</seed:think>") in read(text)

    def test_no_late_end_where_thinking_was_closed(self) -> None:
        assert read("a</seed:think>b", start="closed")[1] == StrayToken("</seed:think>")
        assert read("a</seed:think>b", start="absent")[1] == LateThinkEnd("</seed:think>")

    @pytest.mark.parametrize(
        ("prompt", "start"),
        [
            ("", "absent"),
            ("<seed:bos>user\nHi<seed:eos><seed:bos>assistant\n", "absent"),
            ("<seed:bos>assistant\n<seed:think>a</seed:think>b<seed:eos><seed:bos>assistant\n", "absent"),
            ("<seed:bos>assistant\n<seed:think>", "thinking"),
            ("<seed:bos>assistant\n<seed:think>I <seed:cot_budget_reflect>", "reflecting"),
            (f"<seed:think>\n<seed:cot_budget_reflect>{NO_BUDGET}</seed:cot_budget_reflect>", "thinking"),
            ("<seed:bos>assistant\n<seed:think>\n</seed:think>", "closed"),
            ("<seed:bos>assistant\n<seed:cot_budget_reflect>", "absent"),
        ],
    )  # fmt: skip
    def test_the_prompt_says_it(self, prompt: str, start: str) -> None:
        assert answer_start(prompt) == start
        assert read("a</seed:think>b", prompt=prompt) == read("a</seed:think>b", start=start)

    def test_text_of_a_prompt_in_pieces_says_nothing(self) -> None:
        assert answer_start([BOS, "user\n<seed:think>", EOS, BOS, "assistant\n"]) == "absent"
        assert answer_start([BOS, "assistant\n", THINK, "</seed:think>", REFLECT]) == "reflecting"
        assert answer_start([THINK, REFLECT, END_REFLECT]) == "thinking"

    def test_start_counts_before_the_prompt(self) -> None:
        assert read("a", prompt="<seed:think>", start="absent") == [ContentDelta("a"), END]

    def test_wrong_ones_are_refused(self) -> None:
        with pytest.raises(InputError, match=f"start is 'open'; allowed: {', '.join(STARTS)}"):
            StreamParser(start="open")  # pyright: ignore[reportArgumentType]
        with pytest.raises(InputError, match="prompt is of type int"):
            StreamParser(prompt=3)  # pyright: ignore[reportArgumentType]
        with pytest.raises(InputError, match=r"prompt\[1\] is of type bytes"):
            StreamParser(prompt=["a", b"b"])  # pyright: ignore[reportArgumentType]


class TestReflections:
    def test_one_of_its_own(self) -> None:
        raw = f"<seed:cot_budget_reflect>{COUNTS}</seed:cot_budget_reflect>"
        assert read(f"<seed:think>a{raw}b")[1:4] == [
            ReasoningDelta("a"),
            Reflection(raw, COUNTS, 129, 383),
            ReasoningDelta("b"),
        ]
        assert parse(f"<seed:think>a{raw}b").reasoning == f"a{raw}b"

    def test_opening_tag_missing(self) -> None:
        """As in a recorded answer of the released model."""
        text = "<seed:think>The user's current thinking budget is 512.</seed:cot_budget_reflect>\nGot it."
        assert read(text)[1:4] == [
            ReasoningDelta("The user's current thinking budget is 512."),
            Reflection("</seed:cot_budget_reflect>", "", None, None),
            ReasoningDelta("\nGot it."),
        ]
        assert read(f"<seed:think>a {COUNTS}</seed:cot_budget_reflect>")[2].remaining == 383  # pyright: ignore

    def test_numbers_are_those_since_the_last_control_token(self) -> None:
        text = f"<seed:think>{COUNTS}</seed:cot_budget_reflect>x</seed:cot_budget_reflect>"
        assert [event.used for event in read(text) if isinstance(event, Reflection)] == [129, None]
        text = f"<seed:think>{COUNTS}</seed:think></seed:cot_budget_reflect>"
        assert [event.used for event in read(text) if isinstance(event, Reflection)] == [None]

    @pytest.mark.parametrize("after", ["</seed:think>", "<seed:cot_budget_reflect>", "<seed:eos>", ""])
    def test_closing_tag_missing(self, after: str) -> None:
        events = read(f"<seed:think><seed:cot_budget_reflect>{COUNTS}\nNow then.{after}")
        assert events[1] == Reflection(f"<seed:cot_budget_reflect>{COUNTS}", COUNTS, 129, 383)
        assert events[2] == ReasoningDelta("\nNow then.")

    @pytest.mark.parametrize("extra", [-1, 0, 1])
    def test_one_that_never_ends_becomes_reasoning(self, extra: int) -> None:
        parser = StreamParser(start="thinking")
        parser.feed(REFLECT)
        events = parser.feed("\nFirst.\n" + "x" * (MAX_REFLECTION_LEN - 8 + extra))
        assert [event.kind for event in events] == (
            [] if extra < 0 else ["reflection", "reasoning", "reasoning"][: 2 + extra]
        )
        closed = merged([*events, *parser.feed(END_REFLECT)])
        assert [event.kind for event in closed] == (
            ["reflection"] if extra < 0 else ["reflection", "reasoning", "reflection"]
        )

    def test_outside_thinking(self) -> None:
        events = read(f"a<seed:cot_budget_reflect>{SPENT}</seed:cot_budget_reflect>b")
        assert [event.kind for event in events] == ["content", "reflection", "content", "finished"]
        assert parse(f"a<seed:cot_budget_reflect>{SPENT}</seed:cot_budget_reflect>b").content == "ab"

    @pytest.mark.parametrize(
        ("text", "numbers"),
        [
            (COUNTS, (129, 383)),
            ("I have used 1 token, and there are 1 token remaining for use.", (1, 1)),
            (SPENT, (None, 0)),
            (NO_BUDGET, (0, 0)),
            (f"{COUNTS} {COUNTS.replace('129', '130')}", (130, 383)),
            (f"{COUNTS} {SPENT}", (None, 0)),
            (f"{SPENT} {COUNTS}", (129, 383)),
            ("I have used many tokens.", (None, None)),
            (COUNTS.replace("129", "1" * 13), (None, None)),
            (COUNTS.replace("129", "１２"), (None, None)),
            ("", (None, None)),
        ],
    )
    def test_numbers(self, text: str, numbers: tuple[int | None, int | None]) -> None:
        assert reflected_numbers(text) == numbers


class TestTokensOutOfPlace:
    @pytest.mark.parametrize("token", [BOS, PAD, END_THINK, END_TOOL_CALL, ControlToken("<|im_end|>")])
    def test_in_content(self, token: ControlToken) -> None:
        events = events_of(["a", token, "b"], start="closed")
        assert events == [ContentDelta("a"), StrayToken(token.text), ContentDelta("b"), END]

    @pytest.mark.parametrize("token", [BOS, PAD, THINK])
    def test_in_thinking(self, token: ControlToken) -> None:
        assert events_of(["a", token], start="thinking")[1] == StrayToken(token.text)
        assert parse(["a", token, "b"], start="thinking").reasoning == "ab"

    def test_after_the_end(self) -> None:
        text = "Yes.<seed:eos><seed:pad>x<seed:tool_call></seed:think>"
        assert read(text)[2:] == [
            TrailingText("<seed:pad>x<seed:tool_call></seed:think>"),
            Finished("", None, ended=True),
        ]
        assert parse(text).content == "Yes."


class TestEnd:
    @pytest.mark.parametrize("text", ["<seed:think>a", "<seed:think>a<seed:cot_budget_reflect>b"])
    def test_thinking_left_open(self, text: str) -> None:
        message = parse(text)
        assert (message.truncated, message.finish_reason, message.content) == ("reasoning", "length", "")

    def test_ended_by_the_model_inside_thinking(self) -> None:
        message = parse("<seed:think>a<seed:eos>")
        assert (message.truncated, message.ended, message.finish_reason) == ("reasoning", True, "stop")

    def test_nothing_after_finish(self) -> None:
        parser = StreamParser()
        assert parser.finish() == [END]
        assert parser.finish() == []
        with pytest.raises(StateError, match="make a new StreamParser"):
            parser.feed("a")

    @pytest.mark.parametrize("piece", [None, 3, b"a", ["a"]])
    def test_what_is_no_piece(self, piece: object) -> None:
        with pytest.raises(InputError, match=f"is of type {type(piece).__name__}; give str or ControlToken"):
            StreamParser().feed(piece)  # pyright: ignore[reportArgumentType]

    def test_what_is_no_answer(self) -> None:
        with pytest.raises(InputError, match="the answer is of type int"):
            parse(3)  # pyright: ignore[reportArgumentType]


TEXT = (
    f"<seed:think>a<seed:cot_budget_reflect>{COUNTS}</seed:cot_budget_reflect></seed:think>b<seed:tool_call>"
    "<function=f><parameter=k>v</parameter> </parameter></function></seed:tool_call>"
)


def test_a_copy_goes_on_by_itself() -> None:
    for place in range(0, len(TEXT), 7):
        parser = StreamParser()
        before = [event for char in TEXT[:place] for event in parser.feed(char)]
        other = parser.copy()
        one = [event for char in TEXT[place:] for event in parser.feed(char)] + parser.finish()
        junk = [event for char in TEXT[::-1] for event in other.copy().feed(char)]
        two = other.feed(TEXT[place:]) + other.finish()
        assert junk is not None
        assert merged([*before, *one]) == merged([*before, *two]) == read(TEXT)


def test_ids_differ_between_answers_and_can_be_given() -> None:
    first, second = (parse(CALL + CALL).tool_calls for _ in range(2))
    assert len({call.id for call in (*first, *second)}) == 4
    assert first == second
    assert [call.id for call in parse(CALL + CALL, id_prefix="r1_").tool_calls] == ["r1_0", "r1_1"]


def test_merged_joins_deltas_of_one_kind_only() -> None:
    events = [ContentDelta("a"), ContentDelta("b"), ReasoningDelta("c"), StrayToken("x"), StrayToken("y")]
    assert merged(events) == [ContentDelta("ab"), *events[2:]]
    assert merged(characters_of_a_call()) == read(CALL)


def characters_of_a_call() -> list[Event]:
    """Events of a call, one character at a time."""
    events = events_of(characters([CALL]))
    assert any(isinstance(event, ToolCallStarted) for event in events)
    return events
