"""The chat page in a real browser: a server in a thread over a scripted engine, and pages that may not complain."""

import asyncio
import json
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from shutil import which
from typing import Any

import pytest
from uvicorn.server import Server

from seed_oss.server.auth import Gate, local_hosts
from seed_oss.server.limits import TransportLimits
from seed_oss.server.streaming import KEEP_ALIVE
from seed_oss.server.transport import server_config
from tests.server.api_calls import app, engine
from tests.server.fake_engine import FakeEngine, Script

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
expect = playwright.expect
CHAT = "/v1/chat/completions"
KEY = "a-key-of-this-test-only"


class Faults:
    """ASGI middleware that asks for a key, or breaks the connection in the middle of an answer.

    Attributes:
        key: without it the API answers 401; None asks for none.
        is_cut: from now on the connection of an answer breaks with the next piece.
        kept_alive: an answer had a comment.
    """

    def __init__(self, behind: Any) -> None:
        self._app = behind
        self.key: str | None = None
        self.is_cut = False
        self.loop: asyncio.AbstractEventLoop | None = None
        self.kept_alive = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle a request."""
        self.loop = asyncio.get_running_loop()
        if scope["type"] == "http" and scope["path"].startswith("/v1/") and not self._may(scope):
            body = b'{"error": {"message": "the API key is missing", "type": "", "param": null, "code": null}}'
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": body})
            return
        await self._app(scope, receive, self._watched(send) if scope.get("path") == CHAT else send)

    def _may(self, scope: Any) -> bool:
        return self.key is None or (b"authorization", f"Bearer {self.key}".encode()) in scope["headers"]

    def _watched(self, send: Any) -> Any:
        async def watched(message: Any) -> None:
            if self.is_cut:
                raise ConnectionResetError("cut by the test")
            await send(message)
            if message.get("body") == KEEP_ALIVE:
                self.kept_alive.set()

        return watched


@dataclass
class Served:
    """A running server.

    Attributes:
        url: of the page.
        engine: what answers.
        faults: what goes wrong.
    """

    url: str
    engine: FakeEngine
    faults: Faults

    def says(self, *scripts: Script | str, hold_after: int | None = None) -> None:
        """What the engine answers from now on; `hold_after` waits after so many tokens until `go_on`."""
        fake = self.engine
        fake.scripts = [Script(one) if isinstance(one, str) else one for one in scripts] or [Script()]
        fake.hold_after, fake._num_used = hold_after, 0
        fake.gate, fake.was_closed = asyncio.Event(), asyncio.Event()
        fake.refusal, fake.submits, fake.closed = None, [], []
        self.faults.key, self.faults.is_cut = None, False
        self.faults.kept_alive.clear()

    def go_on(self) -> None:
        """End the wait of `says`."""
        assert self.faults.loop is not None
        self.faults.loop.call_soon_threadsafe(self.engine.gate.set)

    def until_kept_alive(self) -> None:
        """Wait until a comment was sent."""
        assert self.faults.kept_alive.wait(10)

    def until_closed(self) -> None:
        """Wait until the engine was told that nobody waits for an answer any more."""
        assert self.faults.loop is not None
        closed = asyncio.run_coroutine_threadsafe(self.engine.was_closed.wait(), self.faults.loop)
        closed.result(timeout=10)

    def prompt(self, index: int = -1) -> str:
        """What the engine was asked."""
        return self.engine.tokenizer.decode(self.engine.submits[index].prompt_ids)


@contextmanager
def serving() -> Generator[Served, None, None]:
    """A server on a port of its own."""
    fake = engine(max_model_len=2**20)
    gate = Gate(app(fake, keep_alive_seconds=0.05), None, local_hosts("127.0.0.1"))
    faults = Faults(gate)
    listening = socket.create_server(("127.0.0.1", 0), backlog=64)
    server = Server(server_config(faults, TransportLimits(), drain_s=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield Served(f"http://127.0.0.1:{listening.getsockname()[1]}/", fake, faults)
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listening.close()


@cache
def chromium() -> str | None:
    """Where the system's Chromium is, or None."""
    return next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := which(name))), None)


@contextmanager
def browsing() -> Generator[Any, None, None]:
    """A browser without windows; skips where there is none."""
    path = chromium()
    if path is None:
        pytest.skip("there is no Chromium on this machine: make browser installs it")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Complaints:
    """What a page's console said that it must not say.

    Attributes:
        allowed: parts of complaints that a test brings about.
    """

    allowed: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def listen(self, page: Any) -> None:
        """Note errors, violations of the policy included."""
        page.on("console", lambda message: message.type in ("error", "warning") and self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(f"uncaught: {error}"))

    def check(self) -> None:
        """Fail where there was one that is not allowed."""
        unexpected = [text for text in self.said if not any(part in text for part in self.allowed)]
        assert not unexpected, unexpected


@contextmanager
def opened(browser: Any, url: str, **options: Any) -> Generator[tuple[Any, Complaints], None, None]:
    """A page with storages of its own. Complaints fail the test at its end."""
    with browser.new_context(**options) as context:
        context.set_default_timeout(8000)
        page, complaints = context.new_page(), Complaints()
        complaints.listen(page)
        page.goto(url)
        yield page, complaints
        complaints.check()


def message_field(page: Any) -> Any:
    """Where a message is written."""
    return page.get_by_label("Message", exact=True)


def named(page: Any, name: str) -> Any:
    """A button."""
    return page.get_by_role("button", name=name, exact=True)


def turns(page: Any) -> Any:
    """What was said."""
    return page.locator(".turn")


def say(page: Any, text: str = "What is 2 + 2?", *, waits: bool = True) -> None:
    """Send a message, and wait for the whole answer."""
    message_field(page).fill(text)
    message_field(page).press("Enter")
    if waits:
        answered(page)


def answered(page: Any) -> None:
    """Wait until no answer is coming."""
    expect(page.locator(".live")).to_have_count(0)


def choose(page: Any, **fields: str) -> None:
    """Change settings by the ids of their fields."""
    named(page, "Settings").click()
    page.locator("#settings summary").click()
    for name, value in fields.items():
        control = page.locator(f"#{name.replace('_', '-')}")
        control.select_option(value) if name in ("model", "budget") else control.fill(value)
    named(page, "Save").click()


def asked(page: Any, work: Any) -> Any:
    """The body of the request that some work sends."""
    with page.expect_request(f"**{CHAT}") as sent:
        work()
    return json.loads(sent.value.post_data)


def conversations(page: Any) -> Any:
    """The titles at the side."""
    return page.locator("#conversations .open")
