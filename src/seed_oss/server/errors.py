"""Every error of the API: one catalogue, one renderer. No body of a request gets into one, and no traceback."""

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from seed_oss.engine.messages import Kind
from seed_oss.errors import SeedOssError

Fault = Literal[
    "invalid",
    "authentication",
    "not_found",
    "model_not_found",
    "no_such_task",
    "method",
    "too_large",
    "media",
    "context",
    "overloaded",
    "unavailable",
    "internal",
]
_CATALOGUE: dict[str, tuple[int, str, str | None]] = {
    "invalid": (400, "invalid_request_error", None),
    "authentication": (401, "authentication_error", "invalid_api_key"),
    "not_found": (404, "invalid_request_error", "not_found"),
    "model_not_found": (404, "invalid_request_error", "model_not_found"),
    "no_such_task": (404, "invalid_request_error", "task_not_available"),
    "method": (405, "invalid_request_error", "method_not_allowed"),
    "too_large": (413, "invalid_request_error", "request_too_large"),
    "media": (415, "invalid_request_error", "unsupported_media_type"),
    "context": (400, "invalid_request_error", "context_length_exceeded"),
    "overloaded": (429, "rate_limit_error", "overloaded"),
    "unavailable": (503, "server_error", "unavailable"),
    "internal": (500, "server_error", "internal_error"),
}
_OF_STATUS: dict[int, Fault] = {
    401: "authentication",
    404: "not_found",
    405: "method",
    413: "too_large",
    415: "media",
    429: "overloaded",
    503: "unavailable",
}
_TEXT_OF: dict[str, str] = {
    "not_found": "there is no such endpoint; GET /openapi.json lists all",
    "method": "this endpoint takes another method; GET /openapi.json lists all",
    "too_large": "the body is too large",
    "media": "the body must be JSON in UTF-8, not compressed",
    "authentication": "the API key is missing or wrong; send it as Authorization: Bearer",
    "internal": "the server failed; the request may be sent again",
}
_PLACE = re.compile(r"[A-Za-z_]\w{0,63}(?:\.\w{1,64}|\[\w{1,20}\]){0,12}")
_QUOTED = re.compile(r"""(?<!\w)(['"])((?:\\.|(?!\1).)*)(?:\1|\Z)|\w{65,}""", re.DOTALL)
_OUR_WORDS = frozenset(
    ("none", "auto", "required", "type", "function", "name", "text", "json_object", "json_schema", "schema")
)
MAX_MESSAGE_CHARS = 600


class ApiError(SeedOssError):
    """What a client is told.

    Args:
        fault: the entry of the catalogue.
        message: what was given, what is allowed, what to do.
        param: the parameter at fault.
        retry_after: seconds after which to try again.

    Attributes:
        is_engines: the engine said so, which is counted where its events go through.
    """

    def __init__(
        self, fault: Fault, message: str = "", *, param: str | None = None, retry_after: float | None = None
    ) -> None:
        self.fault: Fault = fault
        self.message = (message or _TEXT_OF.get(fault, fault))[:MAX_MESSAGE_CHARS]
        self.param = param
        self.retry_after = retry_after
        self.is_engines = False
        super().__init__(self.message)

    @property
    def status(self) -> int:
        """Of the HTTP response."""
        return _CATALOGUE[self.fault][0]

    @property
    def type(self) -> str:
        """OpenAI's name for the kind of error."""
        return _CATALOGUE[self.fault][1]

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of the response."""
        _, kind, code = _CATALOGUE[self.fault]
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": code}}

    @property
    def headers(self) -> dict[str, str]:
        """Of the response."""
        waits = self.fault in ("overloaded", "unavailable") or self.retry_after is not None
        return {"Retry-After": str(max(1, round(self.retry_after or 1)))} if waits else {}

    @classmethod
    def of_kind(
        cls, kind: Kind, message: str, *, param: str | None = None, retry_after: float | None = None
    ) -> "ApiError":
        """What an engine said. What went wrong inside it is not told."""
        shown = "" if kind == "internal" else without_quotes(message)
        named = param or (named_in(shown) if kind == "invalid" else None)
        error = cls(kind) if kind == "internal" else cls(kind, shown, param=named, retry_after=retry_after)
        error.is_engines = True
        return error

    @classmethod
    def of_status(cls, status: int, headers: Mapping[str, str] | None = None) -> "ApiError":
        """What the framework found: no such route, a wrong method, and the like."""
        fault = _OF_STATUS.get(status, "invalid" if status < 500 else "internal")
        return cls(fault, "the request is malformed" if fault == "invalid" else "")


class ClientGoneError(SeedOssError):
    """Nobody waits for the answer any more."""


@contextmanager
def refusing(param: str | None = None, *, otherwise: str | None = None) -> Generator[None, None, None]:
    """What the library refuses in here is the request's fault.

    Args:
        param: the parameter at fault; None takes the one that the message begins with.
        otherwise: the parameter where the message begins with none.
    """
    try:
        yield
    except ApiError:
        raise
    except SeedOssError as error:
        message = without_quotes(str(error))
        raise ApiError("invalid", message, param=param or named_in(message) or otherwise) from None


def without_quotes(message: str) -> str:
    """A message of the library, without the texts that it quotes, and overlong names: they may be a client's."""
    return _QUOTED.sub(lambda found: found[0] if found[2] in _OUR_WORDS else "(a text)", message)


def place_in(message: str) -> str | None:
    """The parameter that a message of the library begins with: `messages[0].content must be ...`."""
    match = _PLACE.match(message)
    place = match.group() if match is not None else ""
    return place if "[" in place or "." in place or "_" in place or place in _ONE_WORD else None


def named_in(message: str) -> str | None:
    """The parameter that a message of the library begins with, or else the one that it speaks of."""
    spoken_of = (param for words, param in _SPOKEN_OF.items() if words in message)
    return place_in(message) or next(spoken_of, None)


_SPOKEN_OF = {"leave tool_choice": "tool_choice", "leave the thinking budget": "thinking_budget"}
_ONE_WORD = frozenset(("messages", "tools", "stop", "seed", "n", "temperature", "thinking", "reasoning", "logprobs"))
