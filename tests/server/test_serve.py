"""The whole server as a process: signals, draining, and an engine that dies."""

import asyncio
import contextlib
import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seed_oss.engine.process_client import ProcessClient
from seed_oss.engine.spec import EngineSpec
from seed_oss.errors import ConfigError, InputError
from seed_oss.server.application import api_application, model_name, namespace_secret
from seed_oss.server.serve import serve
from seed_oss.server.settings import ServeSettings
from tests.engine.processes import PATIENCE_S, environment
from tests.server.asking import ask

KEY = "key-" + "a" * 20


class Server:
    """A server's process."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.port = 0
        self.listening: dict[str, Any] = {}

    def event(self, name: str) -> dict[str, Any]:
        """The next log line of this kind."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("{") and (event := json.loads(line))["event"] == name:
                return event
        raise AssertionError(f"it ended without {name}")

    def get(self, path: str) -> tuple[int, Any, Any]:
        """One request; status, headers, and JSON, if it is that."""
        with contextlib.closing(self.connection()) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            text, is_json = response.read(), response.headers["content-type"] == "application/json"
            return response.status, response.headers, json.loads(text) if is_json else text

    def ask(self, method: str, path: str, **headers: str) -> tuple[int, Any]:
        """One request; status and JSON."""
        with contextlib.closing(self.connection()) as connection:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def stream(self, path: str) -> "Stream":
        """An answer that comes line by line."""
        return Stream(self.connection(), path)

    def connection(self) -> http.client.HTTPConnection:
        """A new one."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)

    def signal(self, one: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal."""
        self.process.send_signal(one)

    def exit_code(self) -> int:
        """Once it has ended; what it still wrote is read away."""
        assert self.process.stderr is not None
        self.process.stderr.read()
        return self.process.wait(PATIENCE_S)


class Stream:
    """An open answer."""

    def __init__(self, connection: http.client.HTTPConnection, path: str) -> None:
        self._connection = connection
        connection.request("POST", path)
        self._response = connection.getresponse()

    def line(self) -> Any:
        """The next one."""
        return json.loads(self._response.readline())

    def close(self) -> None:
        """Leave it."""
        self._response.close()
        self._connection.close()

    def rest(self) -> list[Any]:
        """All others."""
        with contextlib.closing(self):
            return [json.loads(line) for line in self._response.read().splitlines()]


@contextlib.contextmanager
def serving(engine: str = "fine", *settings: str, wait: bool = True) -> Iterator[Server]:
    """A server's process over a scripted engine."""
    command = [sys.executable, "-m", "tests.server.serve_program", engine, *settings]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        server = Server(process)
        try:
            server.listening = server.event("listening")
            server.port = server.listening["port"]
            if wait:
                server.event("ready")
            yield server
        finally:
            process.kill()


def engine_pid(server: Server) -> int:
    """The process that the server has started."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    return int(children[0])


def test_an_answer_and_a_clean_end() -> None:
    with serving() as server:
        *tokens, end = server.stream("/generate/3/").rest()
        assert ([one for some in tokens for one in some], end) == ([0, 1, 2], ["eos", None])
        assert server.ask("GET", "/health")[0] == server.ask("GET", "/ready")[0] == 200
        assert server.ask("GET", "/metrics", Host="evil.example")[0] == 403
        line = server.event("engine_request")
        assert (line["new_tokens"], line["ended"]) == (3, ["eos"])
        server.signal()
        assert server.event("stopped")["code"] == 0
        assert server.exit_code() == 0


@pytest.mark.parametrize("one", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_open_answers_end_and_takes_no_more(one: signal.Signals) -> None:
    with serving() as server:
        stream = server.stream("/generate/5000/")
        first = stream.line()
        server.signal(one)
        server.event("draining")
        rest = stream.rest()
        assert rest[-1] == ["eos", None]
        assert sum(map(len, [first, *rest[:-1]])) == 5000
        assert server.exit_code() == 0


def test_while_it_drains_it_says_so() -> None:
    with serving("fine", "drain_s=3600") as server:
        stream = server.stream("/generate/1000000000/")
        assert stream.line()[0] == 0
        server.signal()
        server.event("draining")
        assert (server.ask("GET", "/health")[0], server.get("/metrics")[0]) == (200, 200)
        status, body = server.ask("GET", "/ready")
        assert (status, body["status"]) == (503, "draining")
        status, headers, body = server.get("/generate/1/")
        assert (status, headers["retry-after"], body["error"]["code"]) == (503, "1", "unavailable")
        server.signal()
        stream.close()
        assert server.exit_code() == 130


@pytest.mark.parametrize("path", ["/generate/1000000000/", "/generate/1/flood"])
def test_what_does_not_end_in_time_is_cut_and_told(path: str) -> None:
    with serving("fine", "drain_s=1") as server:
        stream = server.stream(path)
        assert stream.line()
        server.signal()
        assert stream.rest()[-1] == ["error", "unavailable"]
        assert server.event("stopped")["code"] == 0
        assert server.exit_code() == 0


def test_a_second_signal_ends_at_once() -> None:
    with (
        serving("fine", "drain_s=3600") as server,
        contextlib.closing(server.stream("/generate/1000000000/")) as stream,
    ):
        assert stream.line()[0] == 0
        server.signal()
        server.event("draining")
        server.signal()
        server.event("ending")
        assert server.exit_code() == 130


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found through Linux's /proc")
def test_an_engine_that_is_killed_is_started_again_and_the_server_lives() -> None:
    with serving() as server:
        stream = server.stream("/generate/1000000000/")
        assert stream.line()[0] == 0
        os.kill(engine_pid(server), signal.SIGKILL)
        assert stream.rest()[-1] == ["error", "unavailable"]
        status, body = server.ask("GET", "/ready")
        assert (status, body["status"]) == (503, "starting")
        assert "signal 9" in server.event("engine_ended")["message"]
        server.event("ready")
        assert server.ask("GET", "/ready")[0] == 200
        assert server.stream("/generate/1/").rest() == [[0], ["eos", None]]
        server.signal()
        assert server.exit_code() == 0


def test_an_engine_that_cannot_start_ends_the_server() -> None:
    with serving("wrong", wait=False) as server:
        assert "78" in server.event("engine_failed")["message"]
        assert server.event("stopped")["code"] == 1
        assert server.exit_code() == 1


def test_while_the_engine_starts_the_server_answers() -> None:
    with serving("hang", wait=False) as server:
        assert server.ask("GET", "/health") == (503, {"status": "starting", "num_steps": None, "silence_s": None})
        assert server.stream("/generate/1/").rest() == [["error", "unavailable"]]
        server.signal()
        assert server.exit_code() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the signal at a parent's death is Linux's")
def test_the_engine_does_not_outlive_a_server_that_is_killed() -> None:
    with serving() as server:
        handle = os.pidfd_open(engine_pid(server))
        os.kill(server.process.pid, signal.SIGKILL)
        try:
            assert select.select([handle], [], [], PATIENCE_S)[0]
        finally:
            os.close(handle)


def test_keys_and_origins() -> None:
    origin = "https://chat.example.org"
    with serving("fine", f'keys=["{KEY}"]', f'origins=["{origin}"]') as server:
        assert server.ask("GET", "/metrics")[0] == 401
        assert server.ask("GET", "/ready")[0] == 200
        with contextlib.closing(server.connection()) as connection:
            asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            connection.request("OPTIONS", "/generate/1/", headers=asked)
            assert connection.getresponse().headers["access-control-allow-origin"] == origin
            connection.close()
            connection.request("GET", "/metrics", headers={"X-Api-Key": KEY, "X-Request-Id": "mine"})
            response = connection.getresponse()
            assert (response.status, response.headers["x-request-id"]) == (200, "mine")
            assert "access-control-allow-origin" not in response.headers


def test_what_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="--allow-unauthenticated"):
        serve(ServeSettings(EngineSpec("demo"), host="0.0.0.0"))
    with pytest.raises(InputError, match="origin"):
        serve(ServeSettings(EngineSpec("demo"), origins=("*",)))
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InputError, match="cannot listen"):
        serve(ServeSettings(EngineSpec("demo"), port=taken.getsockname()[1]))


APPLICATION = """
import asyncio, json, sys
from seed_oss.engine.process_client import ProcessClient
from seed_oss.engine.spec import EngineSpec
from seed_oss.server.application import api_application
from seed_oss.server.serve import serve
from seed_oss.server.settings import ServeSettings
from tests.server.asking import ask
settings = ServeSettings(EngineSpec(sys.argv[1], max_model_len=100), names=("a", "b"))
app = api_application(ProcessClient(["none"]), settings)
models = asyncio.run(ask(app, "/v1/models")).json()["data"]
print(json.dumps([[one["id"], one["max_model_len"]] for one in models]), "torch" in sys.modules)
"""


def test_the_servers_process_has_the_endpoints_and_no_torch(tmp_path: Path) -> None:
    from tests.cli.conftest import make_checkpoint

    command = [sys.executable, "-c", APPLICATION, str(make_checkpoint(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    assert done.stdout.split("\n")[0] == '[["a", 100], ["b", 100]] False'


def test_a_model_may_be_served_beyond_the_length_it_was_trained_on(tmp_path: Path) -> None:
    from tests.cli.conftest import make_checkpoint

    settings = ServeSettings(
        EngineSpec(str(make_checkpoint(tmp_path, max_position_embeddings=128)), max_model_len=500), names=("a",)
    )
    models = asyncio.run(ask(api_application(ProcessClient(["none"]), settings), "/v1/models")).json()["data"]
    assert [one["max_model_len"] for one in models] == [500]


def test_a_thinking_budget_for_a_model_that_cannot_think(tmp_path: Path) -> None:
    from tests.cli.conftest import make_checkpoint

    folder = make_checkpoint(tmp_path)
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace("seed:think", "seed:other"))
    settings = ServeSettings(EngineSpec(str(folder)), names=("a",), thinking_budget=512)
    with pytest.raises(ConfigError, match="--thinking-budget"):
        api_application(ProcessClient(["none"]), settings)


def test_a_secret_is_kept_beside_cached_prompts(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    kept = namespace_secret(str(folder))
    assert namespace_secret(str(folder)) == kept
    assert namespace_secret(None) != namespace_secret(None)
    (file,) = folder.iterdir()
    assert (file.stat().st_mode & 0o777, len(kept)) == (0o600, 32)
    file.write_bytes(b"short")
    assert len(namespace_secret(str(folder))) == 32


def test_the_log_has_the_name_that_requests_use() -> None:
    with serving("fine", 'names=["tuned", "seed"]') as server:
        assert server.listening["model"] == "tuned"


@pytest.mark.parametrize("what", ["pipe", "folder", "open file", "open folder", "no folder"])
def test_a_secret_that_is_none_or_not_ours_alone_is_refused(tmp_path: Path, what: str) -> None:
    folder, file = tmp_path / "cache", tmp_path / "cache" / "namespace.secret"
    namespace_secret(str(folder))
    if what == "open folder":
        folder.chmod(0o777)
    elif what == "open file":
        file.chmod(0o644)
    else:
        file.unlink()
        if what == "pipe":
            os.mkfifo(file, 0o600)
        elif what == "folder":
            file.mkdir()
        else:
            folder.rmdir()
            folder.touch()
    with pytest.raises(ConfigError, match="cache_dir"):
        namespace_secret(str(folder))


def test_a_secret_that_two_make_at_the_same_time_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exists, others = Path.exists, list[bytes]()

    def exists_not_yet(path: Path) -> bool:
        found = exists(path)
        if not found and not others and path.name == "namespace.secret":
            others.append(b"")
            others[0] = namespace_secret(str(tmp_path))
        return found

    monkeypatch.setattr(Path, "exists", exists_not_yet)
    assert namespace_secret(str(tmp_path)) == others[0]
    assert [path.name for path in tmp_path.iterdir()] == ["namespace.secret"]


def test_names_of_models(tmp_path: Path) -> None:
    assert model_name("ByteDance-Seed/Seed-OSS-36B-Instruct") == "ByteDance-Seed/Seed-OSS-36B-Instruct"
    assert model_name(str(tmp_path)) == tmp_path.name
    assert model_name("demo") == "demo"
    assert model_name("a" * 300) == "a" * 300  # no file can be called that


def test_a_folder_gives_its_own_name_and_never_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner" / "deep").mkdir(parents=True)
    (tmp_path / "seed").symlink_to(tmp_path / "inner")
    monkeypatch.chdir(tmp_path / "inner")
    for written in (f"{tmp_path}/seed", f"{tmp_path}/seed/", "../seed", "deep/../../seed"):
        assert model_name(written) == "seed"
    assert (model_name("."), model_name("deep/.."), model_name("..")) == ("inner", "inner", tmp_path.name)
    assert model_name("/") == "model"
