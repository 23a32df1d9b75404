"""`seed-oss chat`: a conversation in the terminal."""

import sys

import typer

from seed_oss.cli.conversation import Conversation
from seed_oss.cli.loading import load
from seed_oss.cli.options import (
    DeviceOption,
    DType,
    DTypeOption,
    MaxNewTokensOption,
    MinPOption,
    ModelOption,
    ModelOptions,
    RepetitionPenaltyOption,
    RevisionOption,
    SampleOption,
    SamplingOptions,
    SeedOption,
    SystemOption,
    TemperatureOption,
    ThreadsOption,
    TopKOption,
    TopPOption,
)
from seed_oss.cli.terminal import show_error, show_note, write_piece
from seed_oss.errors import InputError, SeedOssError

HELP = """\
/help      show this list
/reset     forget the conversation and start a new one
/exit      leave (as Ctrl-D does)
//text     send a message that starts with a slash
Ctrl-C     stop the answer that is being written; the conversation goes on"""


def chat(
    model: ModelOption = "demo",
    system: SystemOption = None,
    max_new_tokens: MaxNewTokensOption = 2048,
    sample: SampleOption = None,
    temperature: TemperatureOption = None,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    min_p: MinPOption = None,
    repetition_penalty: RepetitionPenaltyOption = None,
    seed: SeedOption = None,
    dtype: DTypeOption = DType.auto,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    revision: RevisionOption = None,
) -> None:
    """Talk to a model.

    Answers are written as they come. /help lists the commands of the conversation; Ctrl-C stops an answer, Ctrl-D ends
    the conversation.
    """
    sampling = SamplingOptions(max_new_tokens, sample, temperature, top_k, top_p, min_p, repetition_penalty, seed)
    sampling.settings(advised=False)  # contradictions are told before anything is loaded
    loaded = load(ModelOptions(model, revision, dtype, device, threads), for_chat=True)
    if not loaded.has_template:
        raise InputError(
            f"{model} has no chat template, so it was not trained to talk; seed-oss generate --raw continues texts"
        )
    conversation = Conversation(loaded, loaded.settings(sampling), system)
    if sys.stdin.isatty():
        _enable_line_editing()
        show_note(f"Talking to {model}. /help lists the commands, Ctrl-D ends.")
    while (message := _read_message()) is not None and _handle_calmly(conversation, message):
        pass


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


def _handle_calmly(conversation: Conversation, message: str) -> bool:
    """As `_handle`; a Ctrl-C that comes just after the answer ends nothing either."""
    try:
        return _handle(conversation, message)
    except KeyboardInterrupt:
        typer.echo()
        return True


def _handle(conversation: Conversation, message: str) -> bool:
    """Do what a line asks for; False ends the conversation."""
    if not message:
        return True
    if message.startswith("/") and not message.startswith("//"):
        return _run_command(conversation, message)
    _reply(conversation, message.removeprefix("/") if message.startswith("//") else message)
    return True


def _run_command(conversation: Conversation, command: str) -> bool:
    if command in ("/exit", "/quit"):
        return False
    if command == "/reset":
        conversation.reset()
        show_note("A new conversation.")
    else:
        if command != "/help":
            show_error(f"{command.split()[0]} is no command; these are, and //{command[1:]} sends it as a message:")
        typer.echo(HELP, err=True)
    return True


def _reply(conversation: Conversation, message: str) -> None:
    answer = None
    try:
        answer, is_whole = conversation.reply(message, write_piece)
    except SeedOssError as error:
        show_error(str(error))
        return
    write_piece("\n")
    show_note(answer.summary() if is_whole else f"stopped; {answer.summary()}")
