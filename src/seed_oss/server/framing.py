"""HTTP/1.1 as h11 reads it, with bounds that h11 does not have, and the errors that come before any endpoint."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import h11

from seed_oss.server.limits import TransportLimits

_VERSION_BYTES = len("  HTTP/1.1")
_HEADER_BYTES = len(": \r\n")
_SLACK_BYTES = 64  # line ends that h11 counts and the limits do not
_PHRASES: Mapping[int, tuple[str, str]] = {
    400: ("Bad Request", "malformed_request"),
    401: ("Unauthorized", "invalid_api_key"),
    403: ("Forbidden", "forbidden"),
    405: ("Method Not Allowed", "method_not_allowed"),
    408: ("Request Timeout", "request_timeout"),
    413: ("Content Too Large", "request_too_large"),
    414: ("URI Too Long", "uri_too_long"),
    431: ("Request Header Fields Too Large", "headers_too_large"),
    500: ("Internal Server Error", "internal_error"),
    501: ("Not Implemented", "not_implemented"),
    503: ("Service Unavailable", "unavailable"),
    505: ("HTTP Version Not Supported", "http_version_not_supported"),
}
_ANTHROPICS_PATH = "/v1/messages"
_ANTHROPICS_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
}


def shaped(body: dict[str, Any], status: int, path: str = _ANTHROPICS_PATH) -> dict[str, Any]:
    """An error of OpenAI's shape as the clients of a path read it: Anthropic's names and shape for their own.

    Args:
        body: `{"error": {"message", "type", "param", "code"}}`.
        status: of the response.
        path: that was asked for.
    """
    if path != _ANTHROPICS_PATH and not path.startswith((f"{_ANTHROPICS_PATH}/", f"{_ANTHROPICS_PATH}?")):
        return body
    usual = "invalid_request_error" if status < 500 else "api_error"
    return {"type": "error", "error": {**body["error"], "type": _ANTHROPICS_TYPES.get(status, usual)}}


def error_body(status: int, message: str, path: str = "") -> bytes:
    """An error that no endpoint has made.

    Args:
        status: of the response.
        message: what was given, what is allowed, what to do; nothing of the request itself.
        path: that was asked for, if that is known; it decides the shape.
    """
    _, code = _PHRASES[status]
    kind = "authentication_error" if status == 401 else "invalid_request_error" if status < 500 else "server_error"
    error = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return json.dumps(shaped(error, status, path)).encode()


def error_response(status: int, message: str, headers: Sequence[tuple[str, str]] = (), path: str = "") -> bytes:
    """A whole response with an error, after which the connection is closed."""
    body = error_body(status, message, path)
    phrase, _ = _PHRASES[status]
    fields = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
    head = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in [*fields, *headers])]
    return "\r\n".join([*head, "", ""]).encode() + body


class LimitedConnection(h11.Connection):
    """The server's side of a connection; `error` is what was wrong with what came, once something was.

    Args:
        limits: bounds of heads and bodies.
    """

    def __init__(self, limits: TransportLimits) -> None:
        most = limits.max_request_line_bytes + limits.max_header_bytes + _SLACK_BYTES
        super().__init__(h11.SERVER, max_incomplete_event_size=most)
        self._limits = limits
        self._num_body_bytes = self._num_chunks = 0
        self._sends_chunks = False
        self.error: h11.RemoteProtocolError | None = None
        self.target = ""  # of the last request whose head has come

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """What comes next.

        Raises:
            h11.RemoteProtocolError: no HTTP, or past a limit; `error_status_hint` is the status to answer with.
        """
        try:
            event = super().next_event()
            if isinstance(event, h11.Request):
                self._check_head(event)
            elif isinstance(event, h11.Data):
                self._check_body(event)
        except h11.RemoteProtocolError as error:
            self.error = error
            raise
        return event

    def send(self, event: h11.Event) -> bytes | None:  # type: ignore[override]
        """An event as bytes. A piece of a stream is a chunk and changes no state, which h11 takes long to find out."""
        if type(event) is h11.Data and self._sends_chunks and event.data and self.our_state is h11.SEND_BODY:
            return b"%x\r\n%b\r\n" % (len(event.data), event.data)
        sent = super().send(event)
        if type(event) is h11.Response:
            self._sends_chunks = sent is not None and b"\r\ntransfer-encoding: chunked\r\n" in sent.lower()
        return sent

    @property
    def num_buffered(self) -> int:
        """Bytes that have come and are not part of an event yet."""
        return len(self.trailing_data[0])

    @property
    def num_body_bytes(self) -> int:
        """Of the body that has come, or of the last one."""
        return self._num_body_bytes

    def _check_head(self, request: h11.Request) -> None:
        limits = self._limits
        self._num_body_bytes = self._num_chunks = 0
        self.target = request.target.decode("latin-1")
        if not request.http_version.startswith(b"1."):
            raise h11.RemoteProtocolError("another major version", error_status_hint=505)
        _refuse_above(len(request.method) + len(request.target) + _VERSION_BYTES, limits.max_request_line_bytes, 414)
        size = sum(len(name) + len(value) + _HEADER_BYTES for name, value in request.headers)
        _refuse_above(size, limits.max_header_bytes, 431)
        _refuse_above(len(request.headers), limits.max_headers, 431)
        lengths = [value for name, value in request.headers if name == b"content-length"]
        if lengths and any(name == b"transfer-encoding" for name, _ in request.headers):
            raise h11.RemoteProtocolError("both a length and chunks", error_status_hint=400)
        if lengths:
            _refuse_above(int(lengths[0]), limits.max_body_bytes, 413)

    def _check_body(self, data: h11.Data) -> None:
        self._num_body_bytes += len(data.data)
        self._num_chunks += data.chunk_start
        _refuse_above(self._num_body_bytes, self._limits.max_body_bytes, 413)
        _refuse_above(self._num_chunks, self._limits.max_chunks, 413)


def _refuse_above(value: int, limit: int, status: int) -> None:
    if value > limit:
        raise h11.RemoteProtocolError(f"above the limit of {limit}", error_status_hint=status)


def message_of(error: h11.RemoteProtocolError, limits: TransportLimits) -> tuple[int, str]:
    """Status and message for what was wrong; h11's own words may hold what came, so they are not used."""
    if error.error_status_hint == 413:
        return 413, (
            f"the body is larger than {limits.max_body_bytes} bytes or comes in more than {limits.max_chunks} chunks; "
            "send less"
        )
    if error.error_status_hint == 414:
        return 414, f"the request line is longer than {limits.max_request_line_bytes} bytes; put data in the body"
    if error.error_status_hint == 431:
        return 431, f"the headers are more than {limits.max_headers} or {limits.max_header_bytes} bytes; send fewer"
    if error.error_status_hint == 501:
        return 501, "this transfer encoding is not known; use chunked, or send the length"
    if error.error_status_hint == 505:
        return 505, "this version of HTTP is not spoken here; send HTTP/1.1"
    return 400, "this is not HTTP/1.1; see RFC 9112"
