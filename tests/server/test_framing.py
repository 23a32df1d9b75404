"""What we write is what h11 would."""

import h11
import pytest

from seed_oss.server.framing import LimitedConnection
from seed_oss.server.limits import TransportLimits

GET = b"%b / HTTP/%b\r\nHost: x\r\n\r\n"
PIECES = (b"a", b"", b"b" * 70_000, b"data: {}\n\n")


def written(
    connection: h11.Connection, request: bytes, headers: list[tuple[str, str]], pieces: tuple[bytes, ...]
) -> bytes:
    """A response to a request."""
    connection.receive_data(request)
    while connection.next_event() is not h11.NEED_DATA and connection.their_state is not h11.DONE:
        pass
    events = [h11.Response(status_code=200, headers=headers), *map(_data, pieces), h11.EndOfMessage()]
    return b"".join(connection.send(event) or b"" for event in events)


def _data(piece: bytes) -> h11.Data:
    return h11.Data(data=piece)


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("headers", [[], [("content-length", str(sum(map(len, PIECES))))]], ids=["stream", "whole"])
def test_bodies(headers: list[tuple[str, str]], version: bytes) -> None:
    request = GET % (b"GET", version)
    ours = written(LimitedConnection(TransportLimits()), request, headers, PIECES)
    assert ours == written(h11.Connection(h11.SERVER), request, headers, PIECES)
    assert (b"chunked" in ours) == (not headers and version == b"1.1")


def test_a_head_has_no_body() -> None:
    request = GET % (b"HEAD", b"1.1")
    ours = written(LimitedConnection(TransportLimits()), request, [], ())
    assert ours == written(h11.Connection(h11.SERVER), request, [], ())


def test_a_stream_and_a_whole_answer_on_one_connection() -> None:
    connection = LimitedConnection(TransportLimits())
    first = written(connection, GET % (b"GET", b"1.1"), [], PIECES)
    connection.start_next_cycle()
    second = written(connection, GET % (b"GET", b"1.1"), [("content-length", "1")], (b"a",))
    assert b"chunked" in first
    assert second.endswith(b"\r\n\r\na")


def test_a_piece_before_its_head_is_refused() -> None:
    with pytest.raises(h11.LocalProtocolError):
        LimitedConnection(TransportLimits()).send(h11.Data(data=b"a"))
