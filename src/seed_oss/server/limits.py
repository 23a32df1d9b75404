"""Bounds of what a connection may send, take and cost."""

from dataclasses import dataclass

MAX_CHOICES_OF_ALL = 64
MAX_PROMPTS = 32
MAX_INPUTS = 2048
MAX_MESSAGES = 4096


@dataclass(frozen=True, slots=True)
class TransportLimits:
    """Bounds of a connection. Past one there is an error of its own and the connection is closed.

    Attributes:
        max_request_line_bytes: method, target and version, without the line's end (414).
        max_header_bytes: all headers, the lines' ends included (431).
        max_headers: how many there are (431).
        max_body_bytes: of a request, without the framing of chunks (413).
        max_bodies_bytes: of the bodies that have come and are not answered yet, over all connections (503).
        max_chunks: of a body in chunks (413).
        max_connections: at the same time, those that wait for nothing included (503).
        headers_s: seconds from the first byte of a request to the end of its headers, and of a new connection to the
            end of the first ones (408).
        body_s: seconds from the end of the headers to that of the body (408).
        keep_alive_s: seconds that a connection without a request is kept.
        send_s: seconds that a client may take nothing of what is sent to it.
    """

    max_request_line_bytes: int = 8 * 2**10
    max_header_bytes: int = 32 * 2**10
    max_headers: int = 100
    max_body_bytes: int = 8 * 2**20
    max_bodies_bytes: int = 64 * 2**20
    max_chunks: int = 2**14
    max_connections: int = 1024
    headers_s: float = 5.0
    body_s: float = 30.0
    keep_alive_s: float = 30.0
    send_s: float = 60.0
