"""Ctrl-C and closed pipes, in real processes."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

COMMAND = [sys.executable, "-m", "seed_oss"]
ENDLESS = ["--max-new-tokens", "1000000", "--threads", "1"]
DEADLINE_S = 120.0


class Terminal:
    """A process that believes it talks to a person."""

    def __init__(self, process: "subprocess.Popen[bytes]", handle: int) -> None:
        self.process = process
        self._handle = handle
        self.seen = ""

    def wait_for(self, pattern: str, *, press: str = "") -> str:
        """Read until the pattern has come; what came up to its end is taken out of `seen` and returned.

        Args:
            pattern: a regular expression.
            press: a key to press now, and again while nothing happens: readline does not see a Ctrl-C that comes in
                the instant between its prompt and its waiting until the next key.
        """
        self.type(press)
        deadline = time.monotonic() + DEADLINE_S
        while (found := re.search(pattern, self.seen)) is None:
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.seen[-2000:]!r}"
            if select.select([self._handle], [], [], 1.0)[0]:
                self.seen += self._read()
            else:
                self.type(press)
        before, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return before

    def _read(self) -> str:
        try:
            return os.read(self._handle, 65536).decode("utf-8", "replace")
        except OSError:  # the other end is closed
            raise AssertionError(f"ended with {self.process.wait()}: {self.seen[-2000:]!r}") from None

    def type(self, text: str) -> None:
        """Type on the keyboard; \\x03 is Ctrl-C."""
        os.write(self._handle, text.encode())


# A shell makes what it starts in the background deaf to Ctrl-C, and with it these tests: hear it again, then become
# the command. In a pseudo-terminal, make that the one that Ctrl-C comes from.
HEAR = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
TAKE_TERMINAL = f"import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); {HEAR}"


@contextmanager
def terminal(*arguments: str | Path, command: Sequence[str] = COMMAND, kind: str = "dumb") -> Iterator[Terminal]:
    """Run the command in a pseudo-terminal of its own, so that Ctrl-C reaches it as from a keyboard."""
    handle, inner = pty.openpty()
    words = [sys.executable, "-c", TAKE_TERMINAL, *command, *map(str, arguments)]
    environment = {**os.environ, "TERM": kind, "COLUMNS": "80"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(
        words, stdin=inner, stdout=inner, stderr=inner, start_new_session=True, env=environment
    ) as process:
        os.close(inner)
        try:
            yield Terminal(process, handle)
        finally:
            process.kill()
            os.close(handle)


def test_ctrl_c_stops_an_answer_and_the_conversation_goes_on(checkpoint: Path):
    with terminal("chat", "--model", checkpoint, *ENDLESS) as screen:
        screen.wait_for(r"Ctrl-D ends\.[\s\S]*> ")
        screen.type("Hello\n")
        screen.wait_for(r"Hello\r\n[\s\S]{200}")
        screen.type("\x03")
        assert "Traceback" not in screen.wait_for(r"stopped; \d+ tokens, [\d.]+ tokens/s")
        screen.wait_for(r"> ")
        screen.wait_for(r"Ctrl-D or /exit ends the conversation[\s\S]*> ", press="\x03")
        screen.type("Again\n")
        screen.wait_for(r"Again\r\n[\s\S]{200}")
        screen.type("\x03")
        screen.wait_for(r"stopped; \d+ tokens[\s\S]*> ")
        screen.type("/exit\n")
        assert screen.process.wait() == 0


def test_ctrl_c_ends_generate_with_what_there_is(checkpoint: Path):
    arguments = [sys.executable, "-c", HEAR, *COMMAND, "generate", "--model", str(checkpoint), *ENDLESS, "Hello"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10)
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        errors = process.stderr.read().decode()
    assert process.returncode == 130
    assert re.search(r"^\d+ tokens, [\d.]+ tokens/s", errors, re.MULTILINE)
    assert "Traceback" not in errors


def test_a_reader_that_goes_away_is_no_error_to_explain(checkpoint: Path):
    arguments = [*COMMAND, "generate", "--model", str(checkpoint), *ENDLESS, "Hello"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10)
        process.stdout.close()
        errors = process.stderr.read().decode()
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors


CALL = (
    "<seed:think>Call it.</seed:think>\n<seed:tool_call>\n<function=wait>\n<parameter=seconds>{}</parameter>\n"
    "</function>\n</seed:tool_call><seed:eos>"
)
TOOLS = """
import time

def wait(seconds: float) -> str:
    'Wait.'
    print("waiting", flush=True)
    time.sleep(seconds)
    return "done"
"""


def test_thinking_and_tools_on_a_terminal(tmp_path: Path):
    file = tmp_path / "tools.py"
    file.write_text(TOOLS)
    answer = "<seed:think>[red]So.\x1b[2J</seed:think>\nIt is over.<seed:eos>"
    texts = [answer, CALL.format(0.01), answer, CALL.format(1000), answer, "<seed:think>" + "so on " * 15_000]
    command = [sys.executable, "-m", "tests.cli.scripted_chat", json.dumps(texts)]
    arguments = ("chat", "--tools", file, "--thinking-budget", "100000", "--max-new-tokens", "200000")
    with terminal(*arguments, command=command, kind="xterm") as screen:
        screen.wait_for(r"The model may call wait\.[\s\S]*> ")
        screen.type("one\n")
        seen = screen.wait_for(r"of them thinking")
        assert "\x1b[2J" not in seen
        assert "\x1b[2m" in seen
        assert "[red]So.[2J" in re.sub(r"\x1b\[\d*m", "", seen)  # no markup
        assert "It is over." in seen

        screen.wait_for(r"> ")
        screen.type("two\n")
        card = re.sub(r"\x1b\[\d*m", "", screen.wait_for(r"\[a\]lways run wait "))
        assert re.search(r"╭─ tool call: wait ─+╮[\s\S]*│ seconds = 0.01 +[\s\S]*╰─+╯", card)
        screen.type("a\n")
        assert "waiting" in screen.wait_for(r"of them thinking")

        screen.wait_for(r"> ")
        screen.type("three\n")
        screen.wait_for(r"waiting")
        screen.type("\x03")  # the tool stops, the answer goes on
        seen = screen.wait_for(r"of them thinking")
        assert "Cancelled by the user" in seen
        assert "It is over." in seen

        screen.wait_for(r"> ")
        screen.type("/fold\n")
        screen.wait_for(r"folded[\s\S]*> ")
        screen.type("four\n")
        screen.wait_for(r"thinking \d+/100000")
        screen.wait_for(r"thinking [1-9]\d+/100000")
        screen.type("\x03")
        seen = screen.wait_for(r"stopped; \d+ tokens")
        assert re.search(r"thought for \d+ tokens \(/show prints it\)", seen)
        assert "Traceback" not in seen
        screen.wait_for(r"> ")
        screen.type("/exit\n")
        assert screen.process.wait() == 0
