"""What `seed-oss chat` does with the lines it reads."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from seed_oss.chat.assistant_message import ToolCall
from seed_oss.cli.answer_view import AnswerView
from seed_oss.cli.answering import check_budget
from seed_oss.cli.call_card import visible
from seed_oss.cli.conversation import Conversation
from seed_oss.cli.forms import check_form
from seed_oss.cli.loading import Loaded
from seed_oss.cli.paper import make_paper
from seed_oss.cli.terminal import show_error, show_note, write_printable
from seed_oss.cli.tool_runner import Consent, ToolRunner
from seed_oss.errors import InputError, SeedOssError

if TYPE_CHECKING:
    from seed_oss.chat.budget import ThinkingBudget
    from seed_oss.chat.output_format import OutputFormat
    from seed_oss.chat.python_tools import PythonTool

HELP = """\
/help      show this list
/reset     forget the conversation and start a new one
/fold      show thinking as one line, or in full again
/show      print the thinking of the last answer
/exit      leave (as Ctrl-D does)
//text     send a message that starts with a slash
Ctrl-C     stop the answer that is being written; the conversation goes on; while a tool runs, only the tool stops"""


class Session:
    """A conversation with a person, or with a file of messages.

    Args:
        loaded: model and tokenizer.
        settings: keyword arguments of `generate`.
        system: system message, or None.
        budget: thinking budget.
        tools: what the model may call.
        tool_choice: what it does with them, as OpenAI's API writes it; None leaves that to it.
        response_format: the form of its answers, or None.
        allow_all: run tools without asking.
        folded: begin with the thinking folded.

    Raises:
        TokenizerError: a budget for a model that does not think.
        InputError: tools for a model whose template does not show them, or a form that cannot be enforced.
        MissingExtraError: a form, and the package that holds answers to it is not installed.
    """

    def __init__(
        self,
        loaded: Loaded,
        settings: dict[str, Any],
        system: str | None,
        budget: "ThinkingBudget",
        tools: "Sequence[PythonTool]" = (),
        *,
        tool_choice: Any = None,
        response_format: "OutputFormat | None" = None,
        allow_all: bool = False,
        folded: bool = False,
    ) -> None:
        check_budget(loaded, budget)
        if tools and "tools" not in loaded.tokenizer.get_chat_template(tools=[]):
            raise InputError("this checkpoint's chat template shows the model no tools; leave --tools out")
        self._view = AnswerView(make_paper(), write_printable, folded=folded)
        self._tools = tools
        runner = ToolRunner(tools, self._view, ask_consent, allow_all=allow_all)
        check_form(loaded, response_format, runner.definitions, tool_choice)
        self._conversation = Conversation(
            loaded,
            settings,
            self._view,
            runner,
            system,
            budget,
            tool_choice=tool_choice,
            response_format=response_format,
        )

    def run(self, name: str) -> None:
        """Read and answer until the end of the input.

        Args:
            name: what the model is called.
        """
        if sys.stdin.isatty():
            _enable_line_editing()
            show_note(f"Talking to {name}. /help lists the commands, Ctrl-D ends.")
            if self._tools:
                show_note(f"The model may call {', '.join(tool.name for tool in self._tools)}.")
        while (message := _read_message()) is not None and self._handle_calmly(message):
            pass

    def _handle_calmly(self, message: str) -> bool:
        """As `_handle`; a Ctrl-C that comes just after the answer ends nothing either."""
        try:
            return self._handle(message)
        except KeyboardInterrupt:
            typer.echo()
            return True

    def _handle(self, message: str) -> bool:
        """Do what a line asks for; False ends the conversation."""
        if not message:
            return True
        if message.startswith("/") and not message.startswith("//"):
            return self._run_command(message)
        self._reply(message.removeprefix("/") if message.startswith("//") else message)
        return True

    def _run_command(self, command: str) -> bool:
        if command in ("/exit", "/quit"):
            return False
        if command == "/reset":
            self._conversation.reset()
            show_note("A new conversation.")
        elif command == "/fold":
            self._view.folded = not self._view.folded
            show_note("Thinking is folded." if self._view.folded else "Thinking is shown.")
        elif command == "/show":
            self._view.show_last_thinking()
        else:
            if command != "/help":
                show_error(f"{command.split()[0]} is no command; these are, and //{command[1:]} sends it as a message:")
            typer.echo(HELP, err=True)
        return True

    def _reply(self, message: str) -> None:
        try:
            answer = self._conversation.reply(message, show_note)
        except SeedOssError as error:
            show_error(str(error))
            return
        show_note(answer.summary() if answer.is_whole else f"stopped; {answer.summary()}")


def _enable_line_editing() -> None:
    try:
        import readline  # noqa: F401 - importing it gives input() history and editing
    except ImportError:
        return


def _read_message() -> str | None:
    """The next line, or None at the end of the input."""
    while True:
        try:
            return input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            typer.echo()
            return None
        except KeyboardInterrupt:
            typer.echo()
            show_note("Ctrl-D or /exit ends the conversation.")
        except UnicodeDecodeError:
            show_error("the line is not valid text; type it again")


def ask_consent(call: ToolCall) -> Consent:
    """Ask the user whether a call may run. Without a terminal it may not."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return Consent.unasked
    _drop_typed_ahead()
    question = f"Run it? [y]es / [n]o / [s]how all / [a]lways run {visible(call.name)} "
    answers = {"y": Consent.yes, "yes": Consent.yes, "a": Consent.always, "always": Consent.always}
    answers |= {"n": Consent.no, "no": Consent.no, "s": Consent.show, "show": Consent.show}
    while True:
        try:
            said = _prompt(question).strip().lower()
        except EOFError:
            typer.echo(err=True)
            return Consent.no
        except UnicodeDecodeError:
            continue
        if said in answers:
            return answers[said]


def _prompt(question: str) -> str:
    if sys.stdout.isatty():
        return input(question)
    typer.echo(question, nl=False, err=True)  # the question is no part of what is piped
    return input()


def _drop_typed_ahead() -> None:
    """What was typed before the question was seen is no answer to it."""
    try:
        import termios
    except ImportError:  # not on Windows
        return
    termios.tcflush(sys.stdin, termios.TCIFLUSH)
