"""The process that renders foreign chat templates: a program of its own, started by template_process.

A template is somebody else's code. The sandbox keeps it from reaching Python's objects; this process keeps it from
taking time, memory or files: it has a bound on each, and is ended when one is reached. It imports nothing but the
standard library and jinja2.

    request   length (4 bytes), marshal of (template, variables, max_chars, seconds, marks); from the parent, which is
              trusted
    answer    length (4 bytes), one letter, UTF-8: T text, E reason; to the parent, which trusts none of it
"""

import marshal
import os
import signal
import sys
from typing import Any, BinaryIO

HEADER_LEN = 4
MAX_MEMORY_BYTES = 512 * 2**20
MAX_REASON_LEN = 500
_READY = b"Tready"


def main() -> None:
    """Answer requests until the parent closes the pipe. Arguments: folders to import jinja2 from."""
    sys.path.extend(sys.argv[1:])
    from jinja2.exceptions import TemplateError

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; it closes the pipe when it ends
    renderer = make_renderer()
    _warm_up(renderer)
    limit_process()
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    _send(answers, _READY)
    while (data := _receive(requests)) is not None:
        template, variables, max_chars, seconds, marks = marshal.loads(data)
        _limit_time(seconds)
        try:
            answer = b"T" + renderer(template, variables, max_chars, marks).encode("utf-8", "surrogatepass")
        except TemplateError as error:
            answer = _reason(f"{type(error).__name__}: {error.message or ''}", error)
        except MemoryError:
            answer = b"E" + f"MemoryError: it needs more than {MAX_MEMORY_BYTES >> 20} MiB".encode()
        except (OSError, ImportError) as error:  # its text names a file of this machine
            answer = _reason(f"{type(error).__name__}: it asked for a part of Python that templates do not have", error)
        except Exception as error:  # noqa: BLE001 - a template may raise anything; the parent gets it as text
            answer = _reason(f"{type(error).__name__}: {error}", error)
        _limit_time(0)
        _send(answers, answer)


def _warm_up(renderer: Any) -> None:
    """Let jinja2 and the clock load what they load when first used; later no file can be opened."""
    from jinja2.exceptions import TemplateError

    renderer("{{ strftime_now('%c %Z') }}{{ [1] | tojson }}{{ [1] | pprint }}{{ lipsum(1) }}", {}, 10**6)
    renderer("{{ 'a b' | wordwrap(1) }}{{ '<b>&amp;' | striptags }}{{ 'a'.encode('idna') }}", {}, 10**6)
    for wrong in ("{{ raise_exception('') }}", "{% wrong %}"):
        try:
            renderer(wrong, {}, 0)
        except TemplateError:
            continue


def make_renderer() -> Any:
    """A function of (template, variables, max_chars, marks) that renders as transformers does.

    Marks are two texts put around what generation blocks render; None puts none.
    """
    from functools import lru_cache

    environment = make_environment()
    compiled = lru_cache(maxsize=16)(environment.from_string)

    def render(template: str, variables: dict[str, Any], max_chars: int, marks: tuple[str, str] | None = None) -> str:
        environment.generation_marks = marks or ("", "")
        pieces: list[str] = []
        room = max_chars
        for piece in compiled(template).generate(variables):
            room -= len(piece)
            if room < 0:
                raise ValueError(f"its output is longer than {max_chars} characters")
            pieces.append(piece)
        return "".join(pieces)

    return render


def make_environment() -> Any:
    """The sandbox, with the settings, filters and functions that chat templates are written for."""
    import json
    from datetime import datetime

    from jinja2 import nodes
    from jinja2.exceptions import SecurityError, TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """`{% generation %}...{% endgeneration %}` marks what the assistant wrote; it renders its body in a scope."""

        tags = {"generation"}  # noqa: RUF012 - the base class declares it so

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

        def _body(self, caller: Any) -> str:
            environment: Any = self.environment
            start, end = environment.generation_marks
            return start + caller() + end

    class PublicNamespace(Namespace):
        """A namespace without underscore names, which could reach Python's own attributes."""

        def __init__(*args: Any, **kwargs: Any) -> None:
            self, *rest = args
            values = dict(*rest, **kwargs)
            for name in values:
                _check_public(name)
            Namespace.__init__(self, values)

        def __setitem__(self, name: str, value: Any) -> None:
            _check_public(name)
            super().__setitem__(name, value)

    class MakeDict:
        """`dict(...)` without the type behind it."""

        def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
            return dict(*args, **kwargs)

        def fromkeys(self, keys: Any, value: Any = None) -> dict[Any, Any]:
            return dict.fromkeys(keys, value)

    def _check_public(name: object) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"a namespace has no names that start with an underscore, got {name[:60]!r}")

    def raise_exception(message: object) -> None:
        raise TemplateError(str(message))

    def strftime_now(form: str) -> str:
        return datetime.now().strftime(form)

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment: Any = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals.update(
        raise_exception=raise_exception, strftime_now=strftime_now, dict=MakeDict(), namespace=PublicNamespace
    )
    return environment


def limit_process() -> None:
    """Give up memory beyond a bound, files, sockets and further processes, where the system can."""
    try:
        import resource
    except ImportError:  # Windows: the parent's time limit remains
        return
    limits = {
        "RLIMIT_AS": MAX_MEMORY_BYTES,
        "RLIMIT_NOFILE": 3,  # standard input, output and error are open; no number is left for more
        "RLIMIT_FSIZE": 0,
        "RLIMIT_NPROC": 0,
        "RLIMIT_CORE": 0,
    }
    for name, value in limits.items():
        kind = getattr(resource, name, None)
        if kind is None:
            continue
        try:
            hard = resource.getrlimit(kind)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (value, value))
        except (ValueError, OSError):
            continue


def _limit_time(seconds: float) -> None:
    """End this process after so much processor time; 0 switches it off. The parent watches the clock besides."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _reason(text: str, error: Exception) -> bytes:
    line = getattr(error, "lineno", None)
    place = f" (line {line})" if isinstance(line, int) else ""
    return b"E" + (text[:MAX_REASON_LEN] + place).encode("utf-8", "replace")


def _receive(stream: BinaryIO) -> bytes | None:
    header = stream.read(HEADER_LEN)
    if len(header) < HEADER_LEN:
        return None
    length = int.from_bytes(header, "big")
    data = stream.read(length)
    return data if len(data) == length else None


def _send(stream: BinaryIO, data: bytes) -> None:
    stream.write(len(data).to_bytes(HEADER_LEN, "big") + data)
    stream.flush()


if __name__ == "__main__":
    main()
    os._exit(0)
