"""The one gate to the optional `llguidance` package, which turns grammars into masks over the vocabulary."""

from types import ModuleType, TracebackType

from seed_oss.errors import InputError, MissingExtraError, SeedOssError

_MAX_MESSAGE_LEN = 300


def require_llguidance() -> ModuleType:
    """Import the `llguidance` package.

    Raises:
        MissingExtraError: it is not installed; the message names the extra that brings it.
    """
    try:
        import llguidance
    except ImportError as error:
        raise MissingExtraError(
            f"Constrained output needs the package llguidance ({error}). Install it: pip install 'seed-oss[grammar]'"
        ) from error
    return llguidance


class package_errors:  # noqa: N801 - reads as a statement: `with package_errors("..."):`
    """Turn whatever the package raises into an InputError; where its own code fails, that is no Exception.

    Args:
        place: what was being worked on, as the start of the message.
    """

    def __init__(self, place: str) -> None:
        self._place = place

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, SeedOssError):
            return
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise InputError(f"{self._place}: {first_line(str(error))}") from error


def first_line(message: str) -> str:
    """A message of the package, cut to what tells people something."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if lines and "regex parse error" in lines[0]:
        lines = [line.removeprefix("error: ") for line in lines if line.startswith("error:")] or lines
    return (lines or ["unknown error"])[0][:_MAX_MESSAGE_LEN]
