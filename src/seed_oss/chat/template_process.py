"""Rendering foreign chat templates in a process of their own, bounded in time, memory and output.

docs/decisions/0004-chat-templates-in-a-process.md says why a process.
"""

import atexit
import contextlib
import importlib.util
import marshal
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seed_oss.chat.template_worker import HEADER_LEN
from seed_oss.errors import MissingExtraError, TemplateError
from seed_oss.files.names import escaped

MAX_TEMPLATE_LEN = 2**20  # characters
MAX_INPUT_BYTES = 64 * 2**20
_PACKAGES = ("jinja2", "markupsafe")
_KEPT_ENVIRONMENT = ("TZ", "SYSTEMROOT")  # nothing else: it may hold keys


@dataclass(frozen=True)
class RenderLimits:
    """What one rendering may take.

    Args:
        seconds: Processor time in seconds.
        wall_seconds: Time by the clock in seconds: more, because a busy machine is not the template's fault.
        max_chars: Characters of output.
    """

    seconds: float = 2.0
    wall_seconds: float = 10.0
    max_chars: int = 16 * 2**20


class TemplateProcess:
    """A process that renders templates one after the other; it starts with the first and is replaced when it ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False

    def render(
        self,
        template: str,
        variables: dict[str, Any],
        limits: RenderLimits,
        marks: tuple[str, str] | None = None,
    ) -> str:
        """Render a template.

        Args:
            template: The template's text.
            variables: What it may read: None, bool, int, float, str, and lists, tuples and dicts of these.
            limits: What it may take.
            marks: Put before and after what each generation block renders.

        Raises:
            TemplateError: The template is wrong, raises, or exceeds a limit; or the process cannot be started.
        """
        if len(template) > MAX_TEMPLATE_LEN:
            raise TemplateError(f"the chat template has {len(template)} characters; the limit is {MAX_TEMPLATE_LEN}")
        try:
            request = marshal.dumps((template, variables, limits.max_chars, limits.seconds, marks))
        except ValueError as error:
            raise TemplateError(f"the messages cannot be given to a chat template: {error}") from None
        if len(request) > MAX_INPUT_BYTES:
            raise TemplateError(f"the messages take {len(request)} bytes; the limit is {MAX_INPUT_BYTES}")
        with self._lock:
            kind, text = self._ask(request, limits)
        if kind != b"T":
            raise TemplateError(f"the chat template cannot be rendered: {escaped(text)}")
        return text

    def start(self) -> None:
        """Start the process without waiting for it, so that it is ready when the first rendering comes."""
        with self._lock:
            self._started()

    @property
    def pid(self) -> int | None:
        """Id of the process, if there is one."""
        return None if self._process is None else self._process.pid

    def close(self) -> None:
        """End the process, if there is one; the next rendering starts another."""
        with self._lock:
            self._end()

    def forget_after_fork(self) -> None:
        """In a forked child: leave the process to the parent, and the lock, which nobody here will release."""
        process, self._process, self._lock = self._process, None, threading.Lock()
        if process is not None:
            _close_pipes(process)
            process.returncode = 0  # not ours to wait for

    def _ask(self, request: bytes, limits: RenderLimits) -> tuple[bytes, str]:
        process = self._running()
        timer = threading.Timer(limits.wall_seconds, process.kill)
        timer.daemon = True
        timer.start()
        try:
            answer = _exchange(process, request, 4 * limits.max_chars + 4096)
            text = (answer or b"")[1:].decode("utf-8", "surrogatepass")
        except (OSError, UnicodeDecodeError):
            answer, text = None, ""
        except BaseException:  # interrupted halfway: the next answer would be taken for this one's
            self._end()
            raise
        finally:
            timer.cancel()
        if not answer:
            self._end()
            raise TemplateError(
                f"the chat template was stopped: it took more than {limits.seconds} s, or crashed. "
                "Pass another one with chat_template="
            )
        if answer.startswith(b"EMemoryError"):
            self._end()
        return answer[:1], text

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = _start()
            self._ready = False
        return self._process

    def _running(self) -> "subprocess.Popen[bytes]":
        process = self._started()
        if not self._ready and _exchange(process, b"", 4096) is None:
            self._end()
            raise TemplateError("the process that renders chat templates did not start; is jinja2 installed whole?")
        self._ready = True
        return process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        _close_pipes(process)


def _start() -> "subprocess.Popen[bytes]":
    if not sys.executable:
        raise TemplateError("chat templates are rendered in a Python process of their own, and sys.executable is empty")
    command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("template_worker.py")), *_import_folders()]
    environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    try:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
    except OSError as error:
        raise TemplateError(f"the process that renders chat templates cannot be started: {error.strerror}") from error


def _import_folders() -> list[str]:
    folders: list[str] = []
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise MissingExtraError(f"chat templates need {name}: pip install {name}")
        folders.append(str(Path(spec.origin).parent.parent))
    return list(dict.fromkeys(folders))


def _exchange(process: "subprocess.Popen[bytes]", request: bytes, max_bytes: int) -> bytes | None:
    """Send a request, if any, and read one answer; None where the process ended, or answers more than allowed."""
    if process.stdin is None or process.stdout is None:
        return None
    if request:
        process.stdin.write(len(request).to_bytes(HEADER_LEN, "big") + request)
        process.stdin.flush()
    header = process.stdout.read(HEADER_LEN)
    length = int.from_bytes(header, "big")
    if len(header) < HEADER_LEN or length > max_bytes:
        return None
    data = process.stdout.read(length)
    return data if len(data) == length else None


def _close_pipes(process: "subprocess.Popen[bytes]") -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


SHARED = TemplateProcess()
atexit.register(SHARED.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=SHARED.forget_after_fork)
