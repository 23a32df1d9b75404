"""Bounds of connections, each at one below, at and above it, over real sockets."""

import asyncio
import socket

import pytest

from seed_oss.server.limits import TransportLimits
from tests.server.raw_http import Answer, run, serving

GET = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
KEPT = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
SMALL = TransportLimits(
    max_request_line_bytes=60,
    max_header_bytes=200,
    max_headers=5,
    max_body_bytes=1000,
    max_chunks=10,
    max_connections=3,
)


def post(length: int, path: str = "/", close: bool = True) -> bytes:
    """A head that announces a body."""
    end = "connection: close\r\n" if close else ""
    return f"POST {path} HTTP/1.1\r\nhost: a\r\n{end}content-length: {length}\r\n\r\n".encode()


CHUNKED = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(size: int) -> bytes:
    """A chunk of a body."""
    return b"%x\r\n" % size + b"y" * size + b"\r\n"


def test_the_limits_are_those_of_the_manual() -> None:
    limits = TransportLimits()
    assert (limits.max_request_line_bytes, limits.max_header_bytes, limits.max_headers) == (8192, 32768, 100)
    assert (limits.headers_s, limits.body_s, limits.max_body_bytes) == (5.0, 30.0, 8 * 2**20)
    assert limits.max_connections == 1024


def test_an_ordinary_request_and_two_on_one_connection() -> None:
    async def scenario() -> None:
        async with serving() as served:
            answer = await served.ask(post(5) + b"hello")
            assert (answer.status, answer.json) == (200, {"path": "/", "num_bytes": 5})
            assert "server" not in answer.headers
            async with await served.connect() as raw:
                for length in (3, 0):
                    await raw.send(post(length, close=False) + b"x" * length)
                    assert (await raw.answer()).json["num_bytes"] == length

    run(scenario())


@pytest.mark.parametrize(("more", "status"), [(-1, 200), (0, 200), (1, 414)])
@pytest.mark.parametrize("limit", [60, 8192])
def test_the_request_line(limit: int, more: int, status: int) -> None:
    async def scenario() -> None:
        async with serving(TransportLimits(max_request_line_bytes=limit)) as served:
            path = b"/" + b"p" * (limit + more - len(b"GET / HTTP/1.1"))
            answer = await served.ask(b"GET " + path + b" HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            assert answer.status == status
            assert status == 200 or answer.code == "uri_too_long"
            assert served.refused == [414] * (status != 200)
            assert len(served.app.requests) == (status == 200)

    run(scenario())


@pytest.mark.parametrize(("more", "status"), [(-1, 200), (0, 200), (1, 431)])
@pytest.mark.parametrize("limit", [200, 32768])
def test_the_size_of_the_headers(limit: int, more: int, status: int) -> None:
    async def scenario() -> None:
        async with serving(TransportLimits(max_header_bytes=limit)) as served:
            fields = b"host: a\r\nconnection: close\r\n"
            fields += b"x: " + b"v" * (limit + more - len(fields) - len(b"x: \r\n")) + b"\r\n"
            assert len(fields) == limit + more
            answer = await served.ask(b"GET / HTTP/1.1\r\n" + fields + b"\r\n")
            assert answer.status == status
            assert status == 200 or answer.code == "headers_too_large"

    run(scenario())


@pytest.mark.parametrize(("num_headers", "status"), [(99, 200), (100, 200), (101, 431)])
def test_the_number_of_headers(num_headers: int, status: int) -> None:
    async def scenario() -> None:
        async with serving() as served:
            fields = b"host: a\r\nconnection: close\r\n" + b"x: 1\r\n" * (num_headers - 2)
            answer = await served.ask(b"GET / HTTP/1.1\r\n" + fields + b"\r\n")
            assert answer.status == status

    run(scenario())


def test_headers_without_an_end() -> None:
    async def scenario() -> None:
        async with serving() as served:
            answer = await served.ask(b"GET / HTTP/1.1\r\nhost: a\r\n", *[b"x: " + b"v" * 2**14 + b"\r\n"] * 64)
            assert (answer.status, answer.code) == (431, "headers_too_large")
            assert served.app.requests == []

    run(scenario())


@pytest.mark.parametrize(
    ("path", "is_anthropics"), [("/v1/messages", True), ("/v1/messages?a", True), ("/v1/m", False)]
)
def test_the_shape_of_an_error_is_that_of_the_path(path: str, is_anthropics: bool) -> None:
    async def scenario() -> None:
        async with serving(TransportLimits(max_body_bytes=1000)) as served:
            body = (await served.ask(post(1001, path), b"x" * 1001)).json
            assert (body.get("type") == "error") is is_anthropics
            kind = "request_too_large" if is_anthropics else "invalid_request_error"
            assert body["error"]["type"] == kind

    run(scenario())


@pytest.mark.parametrize(("more", "status"), [(-1, 200), (0, 200), (1, 413)])
@pytest.mark.parametrize("limit", [1000, 8 * 2**20])
def test_a_body_of_known_length(limit: int, more: int, status: int) -> None:
    async def scenario() -> None:
        async with serving(TransportLimits(max_body_bytes=limit)) as served:
            answer = await served.ask(post(limit + more), b"x" * (limit + more))
            assert answer.status == status
            assert status == 200 or answer.code == "request_too_large"
            assert len(served.app.requests) == (status == 200), "it is refused before anybody waits for it"

    run(scenario())


@pytest.mark.parametrize(("more", "status"), [(-1, 200), (0, 200), (1, 413)])
@pytest.mark.parametrize("limit", [1000, 8 * 2**20])
def test_a_body_in_chunks(limit: int, more: int, status: int) -> None:
    async def scenario() -> None:
        async with serving(TransportLimits(max_body_bytes=limit)) as served:
            sizes = [limit // 2, limit // 2 + more]
            answer = await served.ask(CHUNKED, *map(chunk, sizes), b"0\r\n\r\n")
            assert answer.status == status
            if status == 200:
                assert answer.json["num_bytes"] == limit + more
            else:
                await served.app.left.wait()
                assert (answer.code, served.app.gone) == ("request_too_large", ["/"])

    run(scenario())


@pytest.mark.parametrize(("num_chunks", "status"), [(9, 200), (10, 200), (11, 413)])
def test_the_number_of_chunks(num_chunks: int, status: int) -> None:
    async def scenario() -> None:
        async with serving(SMALL) as served:
            answer = await served.ask(CHUNKED, *[chunk(1)] * num_chunks, b"0\r\n\r\n")
            assert answer.status == status

    run(scenario())


def test_the_bounds_are_those_of_one_request() -> None:
    async def scenario() -> None:
        async with serving(SMALL) as served, await served.connect() as raw:
            for _ in range(4):
                await raw.send(post(600, close=False) + b"x" * 600)
                assert (await raw.answer()).status == 200

    run(scenario())


def test_a_body_without_end() -> None:
    async def scenario() -> None:
        async with serving(SMALL) as served:
            answer = await served.ask(CHUNKED + b"ffffffff\r\n", *[b"z" * 2**16] * 64)
            assert (answer.status, answer.code) == (413, "request_too_large")

    run(scenario())


def test_who_announces_too_much_gets_the_answer_while_it_sends() -> None:
    async def scenario() -> None:
        async with serving(SMALL) as served:
            answer = await served.ask(post(10**9), *[b"z" * 2**16] * 64)
            assert answer.status == 413

    run(scenario())


GARBAGE = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "an empty line": b"\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
    "length and chunks": b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n",
    "a length that is none": b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -3\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\n folded\r\nhost: a\r\n\r\n",
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
def test_what_is_no_http_gets_an_error_in_the_usual_shape(data: bytes) -> None:
    async def scenario() -> None:
        async with serving() as served:
            answer = await served.ask(data)
            assert (answer.status, answer.code, served.app.requests) == (400, "malformed_request", [])
            assert b"folded" not in answer.data

    run(scenario())


def test_another_transfer_encoding() -> None:
    async def scenario() -> None:
        async with serving() as served:
            answer = await served.ask(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n")
            assert (answer.status, answer.code) == (501, "not_implemented")

    run(scenario())


@pytest.mark.parametrize("version", ["2.0", "3.0", "0.9"])
def test_another_major_version(version: str) -> None:
    async def scenario() -> None:
        async with serving() as served:
            answer = await served.ask(f"GET / HTTP/{version}\r\nhost: a\r\n\r\n".encode())
            assert (answer.status, answer.code) == (505, "http_version_not_supported")
            assert answer.headers["connection"] == "close"
            assert (served.app.requests, served.refused) == ([], [505])

    run(scenario())


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2"])
def test_versions_that_are_spoken(version: str) -> None:
    async def scenario() -> None:
        async with serving() as served:
            answer = await served.ask(f"GET / HTTP/{version}\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
            assert answer.status == 200

    run(scenario())


def test_the_first_line_of_http_2_gets_an_answer() -> None:
    async def scenario() -> None:
        async with serving() as served:
            answer = await served.ask(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            assert (answer.status, answer.code) == (505, "http_version_not_supported")

    run(scenario())


def test_garbage_within_a_body_ends_its_request() -> None:
    async def scenario() -> None:
        async with serving() as served:
            answer = await served.ask(CHUNKED, b"what?\r\n")
            assert (answer.status, answer.code) == (400, "malformed_request")
            await served.app.left.wait()
            assert served.app.gone == ["/"]

    run(scenario())


FAST = TransportLimits(headers_s=0.1, body_s=0.2, keep_alive_s=0.1, send_s=0.1)


@pytest.mark.parametrize("sent", [b"G", b"GET / HTTP/1.1\r\nhost: a\r\n"])
def test_headers_that_do_not_come(sent: bytes) -> None:
    async def scenario() -> None:
        async with serving(FAST) as served:
            answer = await served.ask(sent)
            assert (answer.status, answer.code) == (408, "request_timeout")
            assert served.app.requests == []

    run(scenario())


def test_a_connection_that_asks_for_nothing() -> None:
    async def scenario() -> None:
        async with serving(FAST) as served:
            assert (await served.ask()).data == b""

    run(scenario())


async def drip(raw: object, data: bytes) -> bytes:
    """Send for ever, byte by byte, each when the server has seen the one before; all that comes until the end."""
    reading = asyncio.create_task(raw.rest())  # type: ignore[attr-defined]
    while not reading.done():
        await raw.send(data)  # type: ignore[attr-defined]
        await asyncio.wait({reading}, timeout=0.01)
    return await reading


def test_a_deadline_is_absolute_for_headers() -> None:
    async def scenario() -> None:
        async with serving(FAST) as served, await served.connect() as raw:
            await raw.send(b"GET / HTTP/1.1\r\nhost: a\r\nx: ")
            assert b" 408 " in await drip(raw, b"v")

    run(scenario())


def test_a_deadline_is_absolute_for_bodies() -> None:
    async def scenario() -> None:
        async with serving(FAST) as served, await served.connect() as raw:
            await raw.send(post(1000))
            assert b" 408 " in await drip(raw, b"v")
            await served.app.left.wait()
            assert served.app.gone == ["/"]

    run(scenario())


def test_the_second_request_of_a_connection_has_its_deadlines_too() -> None:
    async def scenario() -> None:
        async with serving(TransportLimits(headers_s=0.1, keep_alive_s=60.0)) as served:
            async with await served.connect() as raw:
                await raw.send(KEPT + b"GET")
                assert (await raw.answer()).status == 200
                assert b" 408 " in await raw.rest()
            async with await served.connect() as raw:
                await raw.send(KEPT)
                assert (await raw.answer()).status == 200
                await raw.send(b"G")
                assert b" 408 " in await raw.rest()

    run(scenario())


def test_an_idle_connection_is_closed() -> None:
    async def scenario() -> None:
        async with serving(FAST) as served, await served.connect() as raw:
            await raw.send(KEPT)
            assert (await raw.answer()).status == 200
            assert await raw.rest() == b""

    run(scenario())


def test_after_an_early_answer_the_body_is_read_and_the_connection_lives() -> None:
    async def scenario() -> None:
        async with serving(TransportLimits(keep_alive_s=0.1)) as served, await served.connect() as raw:
            await raw.send(post(5, "/early", close=False))
            assert (await raw.answer()).json["path"] == "/early"
            await raw.send(b"hello" + KEPT)
            assert (await raw.answer()).json["path"] == "/"
            await raw.send(post(5, "/early", close=False))
            assert (await raw.answer()).json["path"] == "/early"
            await raw.send(b"hello")
            assert await raw.rest() == b"", "it is idle, and closed as one"

    run(scenario())


def test_after_an_early_answer_the_body_has_its_deadline() -> None:
    async def scenario() -> None:
        async with serving(FAST) as served, await served.connect() as raw:
            await raw.send(post(5, "/early", close=False))
            assert (await raw.answer()).status == 200
            await drip(raw, b"")

    run(scenario())


def test_who_takes_nothing_of_the_answer_is_cut() -> None:
    async def scenario() -> None:
        async with serving(FAST) as served:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", served.port))
            await asyncio.get_running_loop().sock_sendall(sock, b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n")
            await served.app.started.wait()
            while served.state.connections:
                await asyncio.sleep(0.01)  # the server closes it; nothing tells us
            served.app.release.set()
            await served.app.left.wait()
            sock.close()

    run(scenario())


@pytest.mark.parametrize("num_open", [1, 2, 3])
def test_the_number_of_connections(num_open: int) -> None:
    async def scenario() -> None:
        async with serving(SMALL) as served:
            held = [await served.connect() for _ in range(num_open)]
            for raw in held:
                await raw.send(KEPT)
                assert (await raw.answer()).status == 200
            answer = await served.ask(GET)
            assert answer.status == (200 if num_open < 3 else 503)
            if num_open == 3:
                assert (answer.code, answer.headers["retry-after"]) == ("unavailable", "1")
                held.pop().writer.transport.abort()
                while len(served.state.connections) > 2:
                    await asyncio.sleep(0)
                assert (await served.ask(GET)).status == 200
            for raw in held:
                raw.writer.transport.abort()

    run(scenario())


def test_requests_in_one_piece_are_answered_in_order() -> None:
    async def scenario() -> None:
        async with serving() as served, await served.connect() as raw:
            paths = [f"/{number}" for number in range(20)]
            await raw.send(
                b"".join(f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi".encode() for path in paths)
            )
            assert [(await raw.answer()).json["path"] for _ in paths] == paths

    run(scenario())


def test_the_second_of_two_in_one_piece_may_be_bad() -> None:
    async def scenario() -> None:
        async with serving(SMALL) as served, await served.connect() as raw:
            await raw.send(KEPT + post(1001))
            assert (await raw.answer()).status == 200
            assert b" 413 " in await raw.rest()

    run(scenario())


def test_a_client_that_leaves_is_noticed_although_more_requests_wait() -> None:
    async def scenario() -> None:
        async with serving() as served:
            async with await served.connect() as raw:
                await raw.send(b"GET /watch HTTP/1.1\r\nhost: a\r\n\r\n")
                await served.app.started.wait()
                await asyncio.sleep(0)  # it waits for its client's end
                await raw.send(KEPT)
                (connection,) = served.state.connections
                while not connection.limited.num_buffered:
                    await asyncio.sleep(0)
            await served.app.left.wait()
            assert served.app.gone == ["/watch"]

    run(scenario())


def test_a_flood_of_requests_in_one_piece_is_not_read() -> None:
    async def scenario() -> None:
        async with serving() as served, await served.connect() as raw:
            await raw.send(b"GET /hold HTTP/1.1\r\nhost: a\r\n\r\n")
            await served.app.started.wait()
            sending = asyncio.create_task(raw.send(KEPT * 2**20))
            await asyncio.wait({sending}, timeout=0.2)
            assert not sending.done()
            (connection,) = served.state.connections
            assert connection.limited.num_buffered < 2**20
            sending.cancel()

    run(scenario())


def test_who_sends_no_more_gets_what_is_written() -> None:
    async def scenario() -> None:
        async with serving() as served, await served.connect() as raw:
            await raw.send(b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n")
            raw.writer.write_eof()
            assert Answer(await raw.rest()).json == {"path": "/a", "num_bytes": 0}

    run(scenario())
