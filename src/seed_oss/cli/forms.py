"""The options that hold an answer to a form: --response-format and --tool-choice."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seed_oss.errors import CheckpointError, InputError, MissingFileError
from seed_oss.files import MAX_JSON_BYTES, parse_json

if TYPE_CHECKING:
    from seed_oss.chat.output_format import OutputFormat
    from seed_oss.cli.loading import Loaded
    from seed_oss.models.chat import ChatStream

ResponseFormatOption = Annotated[
    str | None,
    typer.Option(
        "--response-format",
        metavar="json|FILE.json",
        help="Hold the answer to a form: 'json' is any JSON object; a file holds a JSON schema, or a response_format "
        "as OpenAI's API takes it. Thinking stays free. Needs the extra 'grammar'.",
        show_default=False,
    ),
]
ToolChoiceOption = Annotated[
    str | None,
    typer.Option(
        "--tool-choice",
        metavar="none|auto|required|NAME",
        help="With --tools: 'none' lets the model call nothing; with 'auto' what it calls fits the function's "
        "parameters; 'required' or the name of a function makes it begin every turn with a call. Without this option "
        "the model is left alone. All but 'none' need the extra 'grammar'.",
        show_default=False,
    ),
]


def response_format(given: str | None) -> "OutputFormat | None":
    """The form that --response-format names; None without it.

    Raises:
        MissingFileError: it is neither 'json' nor a file.
        InputError: the file cannot be read, or holds no schema that answers can be held to.
    """
    if given is None:
        return None
    from seed_oss.chat.output_format import OutputFormat

    if given == "json":
        return OutputFormat.json_object()
    data = _read_json(Path(given))
    try:
        if isinstance(data, dict) and data.get("type") in ("json_schema", "json_object"):
            return OutputFormat.of(data)
        return OutputFormat.json_schema(data)
    except InputError as error:
        raise InputError(f"{given}: {error}") from None


def _read_json(path: Path) -> Any:
    if not path.exists() or path.is_dir():
        raise MissingFileError(f"{path} is not a file; --response-format needs 'json', or a file with a JSON schema")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
        return parse_json(data, source=str(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except CheckpointError as error:
        raise InputError(str(error)) from None


def tool_choice(given: str | None, names: Sequence[str]) -> Any:
    """What --tool-choice stands for, as OpenAI's API writes it.

    Args:
        given: the option.
        names: the functions of --tools; none without that option.

    Raises:
        typer.BadParameter: there are no tools, or none of this name.
    """
    if given is None:
        return None
    if not names:
        raise typer.BadParameter(
            "it says what the model does with tools, and there are none; give --tools too", param_hint="--tool-choice"
        )
    if given in ("none", "auto", "required"):
        return given
    if given not in names:
        raise typer.BadParameter(
            f"{given!r} is neither none, auto, required nor a function of --tools; there are {', '.join(names)}",
            param_hint="--tool-choice",
        )
    return {"type": "function", "function": {"name": given}}


def require_extra(form: "OutputFormat | None", choice: Any = None) -> None:
    """Tell before a model is loaded that a package is missing.

    Raises:
        MissingExtraError: it is needed to hold answers to this form, or calls to their functions.
    """
    if form is not None or choice not in (None, "none"):
        from seed_oss.generation.grammar_package import require_llguidance

        require_llguidance()


def after_first_round(choice: Any) -> Any:
    """The choice for what follows the results of calls: a call that must come has come, and the model may answer."""
    return choice if choice in (None, "none") else "auto"


def check_form(loaded: "Loaded", form: "OutputFormat | None", tools: Any = None, choice: Any = None) -> None:
    """Refuse what answers cannot be held to, before anything is asked.

    Args:
        loaded: model and tokenizer.
        form: what --response-format stands for.
        tools: definitions of the tools, or None.
        choice: what --tool-choice stands for.

    Raises:
        InputError: the schema, or that of a tool, cannot be enforced.
        MissingExtraError: the package that holds answers to forms is not installed.
        TokenizerError: calls for a model without a format of calls.
    """
    if form is None and choice is None:
        return
    from seed_oss.generation import grammar_control

    grammar_control(loaded.tokenizer, response_format=form, tools=tools, tool_choice=choice)


def note_on_form(stream: "ChatStream", form: "OutputFormat | None") -> str | None:
    """What to say of an answer that is not of its form; None where it is, or need not be."""
    if form is None or not stream.message.truncated:
        return None
    if stream.finish_reason == "length":
        return f"The answer was cut off after --max-new-tokens {stream.turn.max_new_tokens}: it is not complete."
    return f"The answer is not complete ({stream.finish_reason})."
