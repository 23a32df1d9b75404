"""Which file names may be used inside a model folder."""

import os
import re

from seed_oss.errors import UnsafeFileError

MAX_NAME_BYTES = 255
_FORBIDDEN = re.compile(r'[/\\:\x00-\x1f\x7f<>"|?*]')
_WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def short(value: object, limit: int = 60) -> str:
    """The repr of a value that may be hostile, cut to a length that fits an error message."""
    text = repr(value[: limit + 1]) if isinstance(value, str) else repr(value)
    return text if len(text) <= limit + 2 else text[:limit] + "..."


def escaped(text: str) -> str:
    """The text of a message with what could command a terminal, or turn the text around, written as escapes.

    Line breaks and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one in "\n\t" else one.encode("unicode_escape").decode("ascii") for one in text
    )


def check_plain_name(name: object, *, where: str = "file name") -> str:
    """Check that a name is one plain component: no separators, no parent, nothing hidden.

    Args:
        name: The value to check; it may come from a file that nobody has checked.
        where: What the name is, for the message.

    Returns:
        The name.

    Raises:
        UnsafeFileError: It is not a plain name.
    """
    if not isinstance(name, str):
        raise UnsafeFileError(f"{where} must be a string, got {type(name).__name__}")
    reason = _what_is_wrong(name)
    if reason is not None:
        raise UnsafeFileError(
            f"{where} {short(name)} {reason}; allowed is one plain name without folders, at most {MAX_NAME_BYTES} bytes"
        )
    return name


def _what_is_wrong(name: str) -> str | None:
    if not name:
        return "is empty"
    if _FORBIDDEN.search(name):
        return "holds a path separator, a colon, a wildcard or a control character"
    if name.startswith("."):
        return "starts with a dot"
    try:
        if len(name.encode("utf-8")) > MAX_NAME_BYTES:
            return "is too long"
    except UnicodeEncodeError:
        return "holds a lone surrogate"
    if name.endswith(".incomplete"):
        return "is an unfinished download"
    if os.name == "nt" and (_WINDOWS_DEVICES.fullmatch(name) or name[-1] in ". "):
        return "is a reserved name on Windows"
    return None


def check_subfolder(subfolder: object) -> tuple[str, ...]:
    """Check a subfolder given by a user, component by component; `""` and None mean no subfolder."""
    if subfolder is None or subfolder == "":
        return ()
    if not isinstance(subfolder, str):
        raise UnsafeFileError(f"subfolder must be a string, got {type(subfolder).__name__}")
    return tuple(check_plain_name(part, where="subfolder component") for part in subfolder.strip("/").split("/"))
