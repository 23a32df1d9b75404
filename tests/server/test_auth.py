"""Keys, hosts, origins and request ids."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from seed_oss.errors import ConfigError, InputError, MissingFileError
from seed_oss.server.auth import (
    OPEN_PATHS,
    ApiKeys,
    Gate,
    check_address,
    check_origins,
    is_loopback,
    local_hosts,
    read_keys,
)
from seed_oss.server.page_files import read_page
from seed_oss.server.request_log import RequestLog
from tests.server.asking import Echo, Lines, ask, error_of, log_to

KEY, OTHER = "key-" + "a" * 20, "key-" + "b" * 20
SECRET = b"s" * 32


def keys() -> ApiKeys:
    """Two keys."""
    return ApiKeys([KEY, OTHER], SECRET)


def status_of(gate: Gate, path: str = "/v1/models", method: str = "GET", **headers: str) -> int:
    """What a request gets; `_` in names of headers stands for '-'."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return asyncio.run(ask(gate, path, method, headers=fields)).status_code


@pytest.mark.parametrize(
    "path", ["/v1/models", "/metrics", "/docs", "/health/", "/%2fhealth", "/Health", "/health/../v1"]
)
def test_whatever_is_not_open_needs_a_key(path: str) -> None:
    echo = Echo()
    response = asyncio.run(ask(Gate(echo, keys()), path))
    assert response.status_code == 401
    assert (error_of(response)["code"], error_of(response)["type"]) == ("invalid_api_key", "authentication_error")
    assert response.headers["www-authenticate"] == "Bearer"
    assert echo.paths == []


@pytest.mark.parametrize(
    ("gate", "type_", "status"),
    [
        (Gate(Echo(), keys()), "authentication_error", 401),
        (Gate(Echo(), None, frozenset(("other",))), "permission_error", 403),
        (Gate(Echo(), None, frozenset(("localhost",))), "permission_error", 403),
    ],
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_clients_of_anthropic_are_told_in_their_shape(gate: Gate, type_: str, status: int, path: str) -> None:
    response = asyncio.run(ask(gate, path, "POST", headers={"origin": "https://example.org"}))
    assert response.status_code == status
    assert (response.json()["type"], response.json()["error"]["type"]) == ("error", type_)
    other = asyncio.run(ask(gate, "/v1/messages-else", "POST", headers={"origin": "https://example.org"}))
    assert error_of(other)["code"] == response.json()["error"]["code"]


@pytest.mark.parametrize("path", ["/", "/health", "/ready"])
def test_open_paths_answer_without_a_key_but_only_to_get(path: str) -> None:
    gate = Gate(Echo(), keys())
    assert status_of(gate, path) == 200
    assert status_of(gate, path, "POST") == 401


def test_the_files_of_the_page_are_open_and_nothing_beside_them() -> None:
    gate = Gate(Echo(), keys(), open_paths=OPEN_PATHS | read_page().keys())
    assert {status_of(gate, path) for path in read_page()} == {200}
    assert [status_of(gate, path) for path in ("/page", "/page/", "/page/none.js", "/page/../v1/models")] == [401] * 4


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": f"Bearer {KEY}"}, 200),
        ({"authorization": f"bearer  {OTHER} "}, 200),
        ({"x_api_key": OTHER}, 200),
        ({"authorization": "Bearer wrong", "x_api_key": KEY}, 200),
        ({"authorization": KEY}, 401),
        ({"authorization": f"Basic {KEY}"}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"authorization": f"Bearer {KEY[:-1]}"}, 401),
        ({"authorization": f"Bearer {KEY}x"}, 401),
        ({"x_api_key": "é" * 600}, 401),
        ({"x_api_key": ""}, 401),
    ],
)
def test_both_ways_to_send_a_key(headers: dict[str, str], status: int) -> None:
    encoded = {name.replace("_", "-"): value.encode() for name, value in headers.items()}
    response = asyncio.run(ask(Gate(Echo(), keys()), headers=encoded))
    assert response.status_code == status
    assert KEY not in response.text


def test_a_namespace_tells_keys_apart_and_does_not_tell_them() -> None:
    mine, other, later = keys().namespace(KEY), keys().namespace(OTHER), ApiKeys([KEY], b"t" * 32).namespace(KEY)
    assert mine is not None
    assert len({mine, other, later, None}) == 4
    assert KEY not in mine
    assert keys().namespace(KEY) == mine
    assert keys().namespace("no-such-key-at-all") is None
    body = asyncio.run(ask(Gate(Echo(), keys()), headers={"x-api-key": KEY})).json()
    assert body["namespace"] == mine


def test_a_namespace_cannot_be_brought_along() -> None:
    assert asyncio.run(ask(Gate(Echo(), None), headers={"namespace": "mine"})).json()["namespace"] == ""


@pytest.mark.parametrize(
    ("key", "is_allowed"),
    [
        ("k" * 15, False),
        ("k" * 16, True),
        ("k" * 512, True),
        ("k" * 513, False),
        ("k k" * 10, False),
        ("é" * 20, False),
    ],
)
def test_what_a_key_may_be(key: str, is_allowed: bool) -> None:
    if is_allowed:
        assert ApiKeys([key], SECRET).namespace(key)
        return
    with pytest.raises(ConfigError, match="API key 1 has") as caught:
        ApiKeys([key], SECRET)
    assert key not in str(caught.value)


def key_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    """A file of keys."""
    file = folder / "keys"
    file.write_text(text, encoding="utf-8")
    file.chmod(mode)
    return file


def test_keys_come_from_a_file_and_the_environment(tmp_path: Path) -> None:
    file = key_file(tmp_path, f"# ours\n\n{KEY}\n  {OTHER}  \n")
    assert read_keys(file, {}) == (KEY, OTHER)
    assert read_keys(file, {"SEED_OSS_API_KEY": f"third-{KEY}, {KEY}"}) == (KEY, OTHER, f"third-{KEY}")
    assert read_keys(None, {}) == ()


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX's")
@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match="chmod 600"):
        read_keys(key_file(tmp_path, KEY, mode), {})


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX's")
@pytest.mark.parametrize(
    ("mode", "elsewhere", "is_taken"), [(0o440, "", True), (0o444, "", False), (0o440, "x", False)]
)
def test_a_credential_of_systemd_may_show_an_access_list(
    tmp_path: Path, mode: int, elsewhere: str, is_taken: bool
) -> None:
    file, environment = key_file(tmp_path, KEY, mode), {"CREDENTIALS_DIRECTORY": str(tmp_path / elsewhere)}
    if is_taken:
        assert read_keys(file, environment) == (KEY,)
    else:
        with pytest.raises(ConfigError, match="chmod 600"):
            read_keys(file, environment)


def test_files_that_hold_no_keys(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        read_keys(tmp_path / "none", {})
    with pytest.raises(ConfigError, match="no API keys"):
        read_keys(key_file(tmp_path, "# nothing\n"), {})
    (tmp_path / "keys").write_bytes(b"\xff" * 20)
    with pytest.raises(ConfigError, match="UTF-8"):
        read_keys(tmp_path / "keys", {})


def test_a_public_address_needs_a_key_or_a_word() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.1.2.3"):
        assert is_loopback(host)
        check_address(host, has_keys=False, allow_unauthenticated=False)
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        assert not is_loopback(host)
        with pytest.raises(ConfigError, match="--allow-unauthenticated"):
            check_address(host, has_keys=False, allow_unauthenticated=False)
        check_address(host, has_keys=True, allow_unauthenticated=False)
        check_address(host, has_keys=False, allow_unauthenticated=True)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:8000", 200),
        ("LOCALHOST", 200),
        ("mine.lan:80", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
    ],
)
def test_without_keys_a_page_cannot_ask_under_its_own_name(host: str, status: int) -> None:
    gate = Gate(Echo(), None, local_hosts("127.0.0.1", ["mine.lan"]))
    assert status_of(gate, host=host) == status


def test_without_keys_pages_of_others_cannot_ask() -> None:
    gate = Gate(Echo(), None, local_hosts("127.0.0.1"), ["https://chat.example.org"])
    assert status_of(gate, method="POST", origin="https://evil.example") == 403
    assert status_of(gate, method="POST", origin="null") == 403
    assert status_of(gate, method="POST", origin="https://chat.example.org") == 200
    assert status_of(gate, method="POST", origin="http://localhost:3000") == 200
    assert status_of(Gate(Echo(), keys(), None), x_api_key=KEY, origin="https://evil.example") == 200


def test_hosts_of_a_public_address() -> None:
    assert local_hosts("0.0.0.0") is None
    assert local_hosts("0.0.0.0", ["a"]) == {"a", "0.0.0.0", "localhost", "127.0.0.1", "::1"}


@pytest.mark.parametrize("origin", ["*", "https://*.example.org", "chat.example.org", "https://a/", "ftp://a"])
def test_origins_are_spelled_out(origin: str) -> None:
    check_origins(["https://chat.example.org", "http://localhost:3000"])
    with pytest.raises(InputError, match="origin"):
        check_origins([origin])


def logged(path: str = "/v1/models", **headers: str) -> tuple[Lines, list[tuple[str, int]], object]:
    """A request through the log: its lines, what was observed, and the response."""
    lines, seen = Lines(), list[tuple[str, int]]()
    app = RequestLog(Gate(Echo(), keys()), log_to(lines), lambda route, status, *_: seen.append((route, status)))
    response = asyncio.run(ask(app, path, headers={"x-api-key": KEY, **headers}))
    return lines, seen, response


@pytest.mark.parametrize("given", ["abc-1.2_3", "x" * 64])
def test_a_well_formed_request_id_is_kept(given: str) -> None:
    lines, _, response = logged(**{"x-request-id": given})
    assert response.headers["x-request-id"] == response.json()["request_id"] == given  # type: ignore[attr-defined]
    assert [line["id"] for line in lines.events("request")] == [given]


@pytest.mark.parametrize("given", ["x" * 65, "", "a b", 'a"', "a\tb"])
def test_another_request_id_is_replaced(given: str) -> None:
    _, _, response = logged(**{"x-request-id": given})
    made = response.headers["x-request-id"]  # type: ignore[attr-defined]
    assert made != given
    assert len(made) == 24


def test_a_log_line_has_numbers_and_neither_keys_nor_paths_nor_texts() -> None:
    lines, seen, _ = logged("/v1/secret%0a?prompt=secret", **{"user-agent": "secret"})
    (line,) = lines.events("request")
    assert {"id", "method", "route", "status", "seconds", "first_byte_s", "time", "event"} <= set(line)
    assert (line["prompt_tokens"], line["completion_tokens"], line["route"]) == (3, 4, "unmatched")
    assert seen == [("unmatched", 200)]
    for text in (KEY, "secret", "nobody may read"):
        assert text not in lines.getvalue()


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_request_that_the_end_of_the_server_cuts_is_told_so_in_our_words(has_begun: bool) -> None:
    sent: list[Any] = []
    waits = asyncio.Event()

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        if has_begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        waits.set()
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    async def work() -> None:
        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        app = RequestLog(inner, log_to(Lines()), lambda *_: None)
        task = asyncio.create_task(app(scope, waits.wait, send))  # type: ignore[arg-type]
        await waits.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(work())
    assert [message.get("status") for message in sent] == ([200] if has_begun else [503, None])
    if not has_begun:
        assert json.loads(sent[1]["body"])["error"]["code"] == "unavailable"
        assert (b"retry-after", b"1") in sent[0]["headers"]


def test_an_error_that_nobody_caught_is_a_500_and_logged_without_its_text() -> None:
    lines, seen, response = logged("/fail")
    assert error_of(response)["type"] == "server_error"  # type: ignore[arg-type]
    assert seen == [("unmatched", 500)]
    (line,) = lines.events("failure")
    assert line["error"] == "ValueError"
    assert "nobody may read" not in lines.getvalue() + response.text  # type: ignore[attr-defined]
    assert line["at"][0].startswith(os.path.join("seed_oss", "server", "request_log.py:"))  # noqa: PTH118


def test_an_error_within_an_answer_breaks_it_off() -> None:
    app = RequestLog(Echo(), log_to(Lines()), lambda *_: None)

    async def call() -> None:
        async def receive() -> dict[str, object]:
            return {}

        async def send(_: object) -> None:
            return None

        await app({"type": "http", "path": "/half", "method": "GET", "headers": []}, receive, send)

    with pytest.raises(ValueError, match="nobody"):
        asyncio.run(call())
