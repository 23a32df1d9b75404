"""The two released chat templates of Seed-OSS, as code: the same text, with control tokens told apart from content."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

from seed_oss.chat.budget import NO_BUDGET
from seed_oss.chat.control_tokens import (
    BOS,
    END_REFLECT,
    END_THINK,
    END_TOOL_CALL,
    EOS,
    REFLECT,
    THINK,
    TOOL_CALL,
    Piece,
)
from seed_oss.chat.normalize import REASONING_FIELDS, NormalizedChat, normalize_chat
from seed_oss.chat.pieces import PieceBuilder, RenderedChat
from seed_oss.chat.seed_tools import function_as_python, printed, tools_as_json
from seed_oss.errors import TemplateError

Variant = Literal["current", "initial"]

# Without thinking, an answer opens with this block. The current template writes it into the prompt, the initial one its
# start.
CLOSED_BLOCK: tuple[Piece, ...] = (
    THINK,
    "\n",
    REFLECT,
    NO_BUDGET,
    END_REFLECT,
    "\n",
    END_THINK,
)
OPEN_BLOCK: tuple[Piece, ...] = (THINK, REFLECT)
_ASSISTANT_WITH_TOOLS = (
    "You are Doubao, a helpful AI assistant. You may call one or more functions to assist with the user query."
)
_CALL_FORMAT: tuple[Piece, ...] = (
    "\n工具调用请遵循如下格式:\n",
    TOOL_CALL,
    "\n<function=example_function_name>\n<parameter=example_parameter_1>value_1</parameter>\n"
    "<parameter=example_parameter_2>This is the value for the second parameter\nthat can span\nmultiple lines"
    "</parameter>\n</function>\n",
    END_TOOL_CALL,
    "\n",
)
_NO_THINKING = (
    "You are an intelligent assistant that can answer questions in one step without the need for reasoning and "
    "thinking, that is, your thinking budget is 0. Next, please skip the thinking process and directly start answering "
    "the user's questions."
)
# Budgets up to the first number are reflected on every so many tokens; larger ones every _LAST_INTERVAL.
_INTERVALS = ((0, 0), (512, 128), (1024, 256), (4096, 512))
_LAST_INTERVAL = 1024


def render(
    messages: Sequence[Any],
    *,
    tools: Sequence[Any] | None = None,
    thinking_budget: Any = None,
    use_json_tooldef: bool = False,
    add_generation_prompt: bool = False,
    variant: Variant = "current",
) -> str:
    """Turn messages into a Seed-OSS prompt: the bytes of the released chat template, without running it.

    What clients send is brought into the template's form first (`seed_oss.chat.normalize`).

    Args:
        messages: Mappings with `role` and `content`; assistants' may have `reasoning_content` and `tool_calls`.
        tools: Tools as JSON schemas.
        thinking_budget: Tokens that the model is told to think within; 0 for no thinking, None or -1 for no word of it.
        use_json_tooldef: Show tools as JSON, not as Python.
        add_generation_prompt: Open the assistant's turn at the end.
        variant: "current", or "initial" for the template of the first release.

    Raises:
        TemplateError: The messages cannot be shown to the model; the message names the place.
    """
    chat = normalize_chat(messages, tools, thinking_budget, use_json_tooldef=use_json_tooldef)
    return render_pieces(chat, add_generation_prompt=add_generation_prompt, variant=variant).text


def render_pieces(
    chat: NormalizedChat,
    *,
    add_generation_prompt: bool = False,
    continue_field: str | None = None,
    variant: Variant = "current",
) -> RenderedChat:
    """Render a normalized conversation into text and control tokens.

    Args:
        chat: The conversation.
        add_generation_prompt: Open the assistant's turn at the end.
        continue_field: Field of the last message that the prompt ends with; the model goes on from there.
        variant: Which of the released templates.

    Raises:
        TemplateError: A value cannot be written as text, there is no such variant, or nothing to go on with.
    """
    if variant not in get_args(Variant):
        raise TemplateError(f'variant must be "current" or "initial", got {variant!r:.60}')
    out = PieceBuilder()
    field = "reasoning_content" if continue_field in REASONING_FIELDS else continue_field
    turns = list(enumerate(chat.messages))
    last = turns[-1][0]
    if turns[0][1]["role"] == "system":
        system = turns.pop(0)[1].get("content")
        _write_system(out, system, chat, stop=last == 0 and field == "content")
    else:
        _write_system(out, None, chat)
    _write_budget(out, chat.thinking_budget)
    for index, message in turns:
        _write_turn(out, message, f"messages[{index}]", field if index == last else None)
    if continue_field is not None and not out.stopped:
        raise TemplateError(
            f"continue_final_message: the template does not write {continue_field!r:.60} of messages[{last}]; "
            "render without it and append the text"
        )
    if add_generation_prompt:
        out.write(BOS, "assistant\n")
        if chat.thinking_budget == 0:
            out.write(*(CLOSED_BLOCK if variant == "current" else OPEN_BLOCK))
    return out.finish()


def _write_system(out: PieceBuilder, system: str | None, chat: NormalizedChat, *, stop: bool = False) -> None:
    if system is not None:
        out.write(BOS, "system\n", system)
        if stop:
            out.stop(strip=False)
    elif chat.tools:
        out.write(BOS, "system\n", _ASSISTANT_WITH_TOOLS)
    if chat.use_json_tooldef:  # also without tools, and then without a turn around it: the released templates do so
        out.write(tools_as_json(chat.tools))
    else:
        for index, tool in enumerate(chat.tools):
            if tool.get("type") == "function":
                out.write(function_as_python(tool["function"], f"tools[{index}].function"))
    if chat.tools:
        out.write(*_CALL_FORMAT)
    if chat.tools or system is not None:
        out.write(EOS)


def _write_budget(out: PieceBuilder, budget: float) -> None:
    if budget == -1:
        return
    number = printed(budget, "thinking_budget")
    words = (
        _NO_THINKING
        if budget == 0
        else "You are an intelligent assistant with reflective ability. In the process of thinking and reasoning, you "
        f"need to strictly follow the thinking budget, which is {number}. That is, you need to complete your thinking "
        f"within {number} tokens and start answering the user's questions. You will reflect on your thinking process "
        f"every {reflection_interval(budget)} tokens, stating how many tokens have been used and how many are left."
    )
    out.write(BOS, "system\n", words, "\n", EOS)


def reflection_interval(budget: float) -> int:
    """After how many tokens of thinking the model is told to reflect on a budget, in tokens."""
    return next((interval for limit, interval in _INTERVALS if budget <= limit), _LAST_INTERVAL)


def _write_turn(out: PieceBuilder, message: dict[str, Any], place: str, continued: str | None) -> None:
    if message["role"] == "assistant":
        _write_assistant(out, message, place, continued)
        return
    out.write(BOS, message["role"], "\n", message["content"])
    if continued == "content":
        out.stop(strip=False)
    out.write(EOS)


def _write_assistant(out: PieceBuilder, message: dict[str, Any], place: str, continued: str | None) -> None:
    reasoning, content = message.get("reasoning_content", ""), message["content"]
    calls = message.get("tool_calls", [])
    out.write(BOS, "assistant")
    newline = _Newline(out)
    if reasoning.strip() or (continued == "reasoning_content" and "reasoning_content" in message):
        newline.write()
        out.write_as_assistant(THINK, reasoning.strip())
        if continued == "reasoning_content":
            out.stop(strip=True)
        out.write_as_assistant(END_THINK)
    if content.strip() or continued == "content":
        newline.write()
        out.write_as_assistant(content.strip())
        if continued == "content":
            out.stop(strip=True)
        out.write_as_assistant("\n" if calls else EOS)
    for index, call in enumerate(calls):
        newline.write()
        out.write_as_assistant(*_call_pieces(call, f"{place}.tool_calls[{index}]"))
    if calls:
        out.write_as_assistant(EOS)


class _Newline:
    """The newline before each part of an assistant's turn: the first ends the turn's header, the others count."""

    def __init__(self, out: PieceBuilder) -> None:
        self._out = out
        self._in_turn = False

    def write(self) -> None:
        (self._out.write_as_assistant if self._in_turn else self._out.write)("\n")
        self._in_turn = True


def _call_pieces(call: dict[str, Any], place: str) -> list[Piece]:
    lines = [f"\n<function={call['name']}>\n"]
    for name, value in call["arguments"].items():
        text = printed(value, f"{place}.arguments[{name!r:.40}]")
        lines.append(f"<parameter={name}>{text}</parameter>\n")
    lines.append("</function>\n")
    return [TOOL_CALL, "".join(lines), END_TOOL_CALL]
