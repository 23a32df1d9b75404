"""Where an answer starts: what the rendered prompt has left open."""

from collections.abc import Iterable
from typing import Literal, cast, get_args

from seed_oss.chat.control_tokens import BOS, END_REFLECT, END_THINK, REFLECT, THINK, ControlToken, Piece
from seed_oss.chat.marker_scanner import ALL_MARKERS, MarkerScanner
from seed_oss.errors import InputError

Start = Literal["absent", "thinking", "reflecting", "closed"]
STARTS: tuple[Start, ...] = get_args(Start)


def answer_start(prompt: str | Iterable[Piece]) -> Start:
    """Read from a prompt where the answer starts.

    Args:
        prompt: The rendered prompt, generation prompt included. In a string, spelled-out markers count; in pieces only
            control tokens do, so that no user's text can open or close anything.

    Returns:
        What the last turn has left: "absent", no think block in it; "thinking", one is open; "reflecting", a reflection
        in one is open; "closed", one is complete.

    Raises:
        InputError: The prompt is neither.
    """
    start: Start = "absent"
    for token in _control_tokens(prompt):
        if token == BOS:
            start = "absent"
        elif token == THINK:
            start = "thinking"
        elif token == END_THINK:
            start = "closed"
        elif token == REFLECT and start == "thinking":
            start = "reflecting"
        elif token == END_REFLECT and start == "reflecting":
            start = "thinking"
    return start


def checked_start(start: object, prompt: str | Iterable[Piece] | None) -> Start | None:
    """The start that arguments say; None where they say nothing. `start` counts before `prompt`.

    Raises:
        InputError: One of them is of a wrong type or value.
    """
    if start is None:
        return None if prompt is None else answer_start(prompt)
    if start not in STARTS:
        raise InputError(f"start is {str(start)[:40]!r}; allowed: {', '.join(STARTS)}, None to read it from the prompt")
    return start


def _control_tokens(prompt: object) -> Iterable[ControlToken]:
    if isinstance(prompt, str):
        lexemes = MarkerScanner(ALL_MARKERS).push(prompt)
        return [lexeme for lexeme in lexemes if isinstance(lexeme, ControlToken)]
    if not isinstance(prompt, Iterable):
        raise InputError(f"prompt is of type {type(prompt).__name__}; give the rendered text, or its pieces")
    pieces = list(cast("Iterable[object]", prompt))
    for place, piece in enumerate(pieces):
        if not isinstance(piece, str | ControlToken):
            raise InputError(f"prompt[{place}] is of type {type(piece).__name__}; pieces are str or ControlToken")
    return [piece for piece in pieces if isinstance(piece, ControlToken)]
