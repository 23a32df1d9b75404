"""Tool calls in an answer: their grammar, arguments that stream, and calls that are broken."""

from typing import Any

import pytest

from seed_oss.chat import BrokenCall, StreamParser, ToolCall, parse
from seed_oss.chat.call_reader import MAX_NAME_LEN
from seed_oss.chat.control_tokens import END_TOOL_CALL, THINK, TOOL_CALL
from seed_oss.chat.events import (
    CallBlockClosed,
    CallBlockOpened,
    CallMarkup,
    ContentDelta,
    Finished,
    ToolCallBroken,
    ToolCallDelta,
    ToolCallFinished,
    ToolCallStarted,
    merged,
)
from tests.chat.answer_texts import TOOLS, events_of, parsed

OPEN, CLOSE = "<seed:tool_call>", "</seed:tool_call>"
HEAD = f"{OPEN}\n<function=get_weather>\n"
TAIL = f"</function>\n{CLOSE}"


def read(text: str, tools: Any = TOOLS) -> list[tuple[str, dict[str, Any]]]:
    """The complete calls of an answer."""
    return [(call.name, parsed(call.arguments)) for call in parse(text, tools=tools).tool_calls]


def value_of(text: str, key: str = "city") -> Any:
    """What a value written as `text`, with whatever follows it up to the end of the call, is read as."""
    ((_, arguments),) = read(f"{HEAD}<parameter={key}>{text}{CLOSE}")
    return arguments[key]


def test_events_of_a_call() -> None:
    events = merged(events_of([f"Let me see.\n\n{HEAD}<parameter=city>Rome</parameter>\n{TAIL}"], tools=TOOLS))
    assert events == [
        ContentDelta("Let me see.\n\n"),
        CallBlockOpened(OPEN),
        CallMarkup("\n"),
        ToolCallStarted("<function=get_weather>", 0, "", "get_weather", False),
        ToolCallDelta("\n<parameter=city>Rome</parameter>\n</function>", 0, '{"city": "Rome"}'),
        ToolCallFinished("", 0, ()),
        CallMarkup("\n"),
        CallBlockClosed(CLOSE),
        Finished("", None, ended=False),
    ]


def test_arguments_stream_while_the_call_is_open() -> None:
    parser = StreamParser(TOOLS)
    seen: list[str] = []
    for piece in (
        HEAD,
        "<parameter=city>Bar",
        'ce"l',
        "ona</par",
        "ameter>",
        "\n<parameter=days>1",
        "2</parameter>\n",
        TAIL,
    ):
        events = parser.feed(piece)
        seen.append("".join(event.arguments for event in events if isinstance(event, ToolCallDelta)))
    assert seen == ["", '{"city": "Bar', 'ce\\"l', "ona", "", '", "days": ', "", "12}"]


def test_a_nullable_string_streams_once_it_is_no_null() -> None:
    parser = StreamParser(TOOLS)
    parser.feed(HEAD)
    seen = [
        "".join(event.arguments for event in parser.feed(piece) if isinstance(event, ToolCallDelta))
        for piece in ("<parameter=note>", "N", "on", "s", "ense")
    ]
    assert seen == ['{"note": ', "", "", '"Nons', "ense"]


def test_calls_one_after_the_other() -> None:
    call = f"{HEAD}<parameter=city>a</parameter>\n{TAIL}"
    wanted = ("get_weather", {"city": "a"})
    assert read(f"{call}\n{call}") == [wanted, wanted]
    assert read(call + call.replace(CLOSE, "").replace("get_weather", "now") + CLOSE)[1][0] == "now"
    assert [event.index for event in events_of([call + call]) if isinstance(event, ToolCallStarted)] == [0, 1]


def test_two_functions_in_one_block() -> None:
    text = f"{OPEN}<function=now></function>\n<function=get_weather><parameter=days>1</parameter></function>{CLOSE}"
    assert read(text) == [("now", {}), ("get_weather", {"days": 1})]


def test_no_arguments() -> None:
    assert read(f"{OPEN}\n<function=now>\n</function>\n{CLOSE}") == [("now", {})]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a</parameter>\n</function>\n", "a"),
        ("a</parameter></function>", "a"),
        ("a</parameter>", "a"),
        ("a</parameter> \n\t ", "a"),
        ("a</parameter>\n<parameter=days>1</parameter>\n</function>", "a"),
        ("a</parameter> b</parameter>\n</function>", "a</parameter> b"),
        ("a</parameter></parameter>\n</function>", "a</parameter>"),
        ("a</parameter>\n</parameter>\n</function>", "a</parameter>\n"),
        ("a</parameter\n></parameter>", "a</parameter\n>"),
        ("a<parameter=b>c</parameter></function>", "a<parameter=b>c"),
        ("a</function>b</parameter></function>", "a</function>b"),
        ("a<function=now></parameter></function>", "a<function=now>"),
        ("a</parameter><function=now></parameter></function>", "a</parameter><function=now>"),
        ("a", "a"),
        ("a</function>\n", "a"),
        ("a\n</function>", "a\n"),
        ("a</function>\n</function>\n", "a</function>\n"),
        ("a</function>\n</parameter>", "a</function>\n"),
        ("", ""),
        ("</parameter>", ""),
        ("\n a \n</parameter>", "\n a \n"),
        ("<seed:think></seed:think></parameter>", "<seed:think></seed:think>"),
        ("<seed:tool_call><seed:bos></parameter>", "<seed:tool_call><seed:bos>"),
        ("</parameter>\n<seed:think></parameter>", "</parameter>\n<seed:think>"),
        ("<seed:cot_budget_reflect>x</parameter>", "<seed:cot_budget_reflect>x"),
        ("</seed:cot_budget_reflect></parameter>", "</seed:cot_budget_reflect>"),
    ],
)  # fmt: skip
def test_where_a_value_ends(text: str, value: str) -> None:
    assert value_of(text) == value


@pytest.mark.parametrize("text", ["a", "a</function>\n", "a</parameter>b"])
def test_a_value_without_its_closing_tag_is_told(text: str) -> None:
    (call,) = parse(f"{HEAD}<parameter=city>{text}{CLOSE}", tools=TOOLS).tool_calls
    assert call.problems == ("parameter 'city' has no closing tag",)


def test_of_two_parameters_with_one_name_the_first_counts() -> None:
    text = f"{HEAD}<parameter=days>1</parameter>\n<parameter=days>2</parameter>\n<parameter=city>a</parameter>{TAIL}"
    (call,) = parse(text, tools=TOOLS).tool_calls
    assert (call.arguments, call.problems) == (
        '{"days": 1, "city": "a"}',
        ("parameter 'days' stands twice; the first one counts",),
    )


def test_a_value_of_the_wrong_type_is_kept_and_told() -> None:
    (call,) = parse(f"{HEAD}<parameter=days>soon</parameter>{TAIL}", tools=TOOLS).tool_calls
    assert call.parsed_arguments() == {"days": "soon"}
    assert call.problems == ("parameter 'days' is not of type integer; kept as a string",)


def test_problems_are_bounded() -> None:
    parameters = "<parameter=days>1</parameter>" * 100
    (call,) = parse(f"{HEAD}{parameters}{TAIL}", tools=TOOLS).tool_calls
    assert len(call.problems) == 16


@pytest.mark.parametrize(("tools", "unknown"), [(TOOLS, True), ([], True), (None, False)])
def test_unknown_functions_are_kept_with_a_flag(tools: Any, unknown: bool) -> None:
    (call,) = parse(f"{OPEN}<function=nope><parameter=days>1</parameter></function>{CLOSE}", tools=tools).tool_calls
    assert call == ToolCall("", "nope", '{"days": "1"}', unknown)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("now", "now"),
        (" now ", "now"),
        ("n" * MAX_NAME_LEN, "n" * MAX_NAME_LEN),
        ("n" * (MAX_NAME_LEN + 1), None),
        ("no\nw", None),
        ("", None),
        (" ", None),
        ("no<function=now", "now"),
    ],
)
def test_names_of_functions(name: str, wanted: str | None) -> None:
    message = parse(f"{OPEN}\n<function={name}>\n</function>\n{CLOSE}", tools=TOOLS)
    assert [call.name for call in message.tool_calls] == ([] if wanted is None else [wanted])
    assert [call.reason for call in message.broken_calls] == (["malformed"] if wanted is None else [])


@pytest.mark.parametrize(("key", "wanted"), [("days", {"days": 1}), (" days ", {"days": 1}), ("da\nys", {}), ("", {})])
def test_names_of_parameters(key: str, wanted: dict[str, Any]) -> None:
    assert read(f"{HEAD}<parameter={key}>1</parameter>\n{TAIL}") == [("get_weather", wanted)]


class TestBroken:
    @pytest.mark.parametrize("end", ["", "<seed:eos>"])
    def test_truncated_in_a_value(self, end: str) -> None:
        text = f"{HEAD}<parameter=city>Rome</parameter>\n<parameter=note>Bring an umb"
        message = parse(f"Wait.\n{text}{end}", tools=TOOLS)
        arguments = '{"city": "Rome", "note": "Bring an umb'
        assert message.broken_calls == (BrokenCall("truncated", text, "get_weather", arguments),)
        assert (message.tool_calls, message.truncated, message.content) == ((), "tool_call", "Wait.")
        assert message.finish_reason == ("stop" if end else "length")
        assert "tool_calls" not in message.to_openai()

    @pytest.mark.parametrize("text", [OPEN, f"{OPEN}\n<func", f"{OPEN}\n<function=get_w"])
    def test_truncated_before_the_name(self, text: str) -> None:
        assert parse(text).broken_calls == (BrokenCall("truncated", text),)
        assert ToolCallBroken("", None, "truncated") in events_of([text])

    @pytest.mark.parametrize(
        "text", [HEAD, f"{HEAD}<param", f"{HEAD}<parameter=ci", f"{HEAD}<parameter=city>a</parameter>\n"]
    )
    def test_truncated_between_parameters(self, text: str) -> None:
        (call,) = parse(text, tools=TOOLS).broken_calls
        assert (call.reason, call.raw, call.name) == ("truncated", text, "get_weather")

    def test_whole_but_for_the_end_of_the_block(self) -> None:
        message = parse(f"{HEAD}<parameter=city>a</parameter>\n</function>\n", tools=TOOLS)
        assert (len(message.tool_calls), message.broken_calls, message.truncated) == (1, (), None)

    @pytest.mark.parametrize(
        "inside", ["", "get_weather", '{"name": "now", "arguments": {}}', "<parameter=a>b</parameter>"]
    )
    def test_no_function_in_it(self, inside: str) -> None:
        message = parse(f"{OPEN}{inside}{CLOSE}Sorry.")
        assert message.broken_calls == (BrokenCall("malformed", OPEN + inside),)
        assert (message.content, message.truncated) == ("Sorry.", None)

    def test_the_next_block_begins_before_this_one_ends(self) -> None:
        call = f"{HEAD}<parameter=city>a</parameter>\n"
        assert read(call + call + TAIL) == [("get_weather", {"city": "a"})] * 2
        message = parse(f"{OPEN}\n{OPEN}<function=now></function>{CLOSE}")
        assert ([call.reason for call in message.broken_calls], len(message.tool_calls)) == (["malformed"], 1)

    def test_thinking_begins_inside_it(self) -> None:
        message = parse(f"{HEAD}<seed:think>Hm.</seed:think>Yes.")
        assert message.broken_calls == (BrokenCall("truncated", HEAD, "get_weather"),)
        assert (message.reasoning, message.content, message.truncated) == ("Hm.", "Yes.", None)

    def test_a_function_begins_inside_another(self) -> None:
        text = f"{OPEN}<function=now>\n<function=get_weather><parameter=days>1</parameter></function>{CLOSE}"
        assert read(text) == [("now", {}), ("get_weather", {"days": 1})]

    def test_control_tokens_between_parameters_are_stray(self) -> None:
        text = f"{HEAD}<seed:pad></seed:cot_budget_reflect><parameter=city>a</parameter>{TAIL}"
        assert read(text) == [("get_weather", {"city": "a"})]
        assert [event.kind for event in events_of([text])].count("stray_token") == 2


def test_only_control_tokens_open_and_close_a_call() -> None:
    call = "\n<function=now>\n<parameter=a></seed:tool_call></parameter>\n</function>\n"
    assert parse([f"{OPEN}{call}{CLOSE}"]).content == f"{OPEN}{call}{CLOSE}"
    (read_call,) = parse([TOOL_CALL, call, END_TOOL_CALL]).tool_calls
    assert read_call.parsed_arguments() == {"a": CLOSE}
    (read_call,) = parse([TOOL_CALL, "<function=now><parameter=a>", THINK, "</parameter></function>"]).tool_calls
    assert read_call.parsed_arguments() == {"a": "<seed:think>"}


def test_a_function_without_a_block_is_content() -> None:
    text = "<function=now>\n</function>"
    assert (parse(text).content, parse(text).tool_calls) == (text, ())
