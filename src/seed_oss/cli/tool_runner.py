"""The user's own Python functions as tools: loading their file, asking, running."""

import contextlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import Any

from seed_oss.chat.assistant_message import AssistantMessage, BrokenCall, ToolCall
from seed_oss.chat.python_tools import PythonTool, public_functions
from seed_oss.cli.answer_view import AnswerView
from seed_oss.errors import InputError, MissingFileError

MAX_RESULT_LEN = 100_000  # characters
CUT_OFF = "Not run: the answer was cut off before its end."
STOPPED = "Not run: the user stopped the answer."


class Consent(StrEnum):
    """What the user says to a call."""

    yes = "yes"
    no = "no"
    always = "always"
    show = "show"
    unasked = "unasked"


def load_tools(path: Path) -> list[PythonTool]:
    """Run a file of the user's and take its public functions.

    Args:
        path: a Python file. What stands beside it can be imported by it.

    Raises:
        MissingFileError: there is none.
        InputError: it fails, or has no functions that can be tools.
    """
    if not path.is_file():
        raise MissingFileError(f"{path} is not a file; --tools needs a Python file with functions")
    spec = importlib.util.spec_from_file_location("seed_oss_tools", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.append(str(path.resolve().parent))  # at the end: a file beside it hides no module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise InputError(f"{path} cannot be loaded: {_told(error)}") from error
    return public_functions(module)


class ToolRunner:
    """Answers a message's calls: asks, runs, reports.

    Args:
        tools: what can be called.
        view: shows calls and results.
        ask: what the user says to a call.
        allow_all: run without asking.
    """

    def __init__(
        self,
        tools: Iterable[PythonTool],
        view: AnswerView,
        ask: Callable[[ToolCall], Consent],
        *,
        allow_all: bool = False,
    ) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._view = view
        self._ask = ask
        self._allow_all = allow_all
        self._always: set[str] = set()

    @property
    def definitions(self) -> list[dict[str, Any]] | None:
        """The tools for the prompt; None where there are none."""
        return [tool.definition for tool in self._tools.values()] or None

    def results(self, message: AssistantMessage, refusal: str | None = None) -> tuple[list[dict[str, Any]], bool]:
        """Messages with the results of all of a message's calls, broken ones first where calls are run at all.

        Args:
            message: what the model said.
            refusal: run nothing, and give this as the result.

        Returns:
            `(messages, is_stopped)`: one message for each call, and whether the user stopped the answer with Ctrl-C.
        """
        results = [] if refusal else [_tool_message(_broken_result(call)) for call in message.broken_calls]
        is_stopped = False
        for call in message.tool_calls:
            try:
                text = refusal or (STOPPED if is_stopped else self._result(call))
            except KeyboardInterrupt:
                text, is_stopped = STOPPED, True
            results.append({**_tool_message(text), "tool_call_id": call.id})
        return results, is_stopped

    def _result(self, call: ToolCall) -> str:
        self._view.show_card(call)
        text = _bounded(self._refusal(call) or self._run(call))
        self._view.show_result(text)
        return text

    def _refusal(self, call: ToolCall) -> str | None:
        """Why a call is not run, or None."""
        tool = self._tools.get(call.name)
        if tool is None:
            names = ", ".join(self._tools)
            return f"Error: there is no tool {call.name!r:.80}; " + (
                f"there are: {names}" if names else "there is none"
            )
        if call.problems:
            return f"Error: {'; '.join(call.problems)}"
        try:
            tool.check(call.parsed_arguments())
        except InputError as error:
            return f"Error: {error}"
        if self._allow_all or call.name in self._always:
            return None
        consent = self._ask(call)
        while consent == Consent.show:
            self._view.show_card(call, whole=True)
            consent = self._ask(call)
        if consent == Consent.always:
            self._always.add(call.name)
        if consent == Consent.unasked:
            return "Not run: nobody is there to allow it."
        return "Not run: the user refused." if consent == Consent.no else None

    def _run(self, call: ToolCall) -> str:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for what the model says
                return _as_text(self._tools[call.name](call.parsed_arguments()))
        except KeyboardInterrupt:
            return "Cancelled by the user while it ran."
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the model is told, the session goes on
            return f"Error: {_told(error)}"


def _told(error: BaseException) -> str:
    """What an error says, whatever its own methods do."""
    kind = type(error).__name__
    try:
        return f"{kind}: {_encodable(str(error))}"
    except (Exception, SystemExit) as second:  # noqa: BLE001 - of the tool's own __str__
        return f"{kind}, whose text cannot be read ({type(second).__name__})"


def _bounded(text: str) -> str:
    if len(text) <= MAX_RESULT_LEN:
        return text
    return f"{text[:MAX_RESULT_LEN]}\n... cut after {MAX_RESULT_LEN} of {len(text)} characters"


def _as_text(value: Any) -> str:
    return _encodable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()  # a name of a file may hold what is no text


def _tool_message(text: str) -> dict[str, Any]:
    return {"role": "tool", "content": text}


def _broken_result(call: BrokenCall) -> str:
    which = f"The call of {call.name!r:.80}" if call.name else "A tool call"
    why = "it was not written to its end" if call.reason == "truncated" else "there is no function in it"
    return f"Error: {which} was not run: {why}. Write it again, in the format given."
