# ruff: noqa: E501
"""Hostile templates: each ends soon with a TemplateError, and the next rendering works."""

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator

import pytest

from seed_oss.chat.template_process import MAX_TEMPLATE_LEN, SHARED, RenderLimits, TemplateProcess
from seed_oss.errors import TemplateError

_SHORT = RenderLimits(seconds=0.15, wall_seconds=10.0, max_chars=10_000)

BOMBS = {
    "range": "{% for i in range(10**9) %}{% endfor %}",
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "string times": "{{ 'a' * 10**10 }}",
    "list times": "{{ [0] * 10**10 }}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "power of power": "{{ ((9 ** 999) ** 999) ** 999 }}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "percent star": "{{ '%*d' % (1000000000, 1) }}",
    "format": "{{ '{:>1000000000}'.format(1) }}",
    "format nested": "{{ '{:>{}}'.format(1, 1000000000) }}",
    "center": "{{ 'a' | center(10**9) }}",
    "ljust": "{{ 'a'.ljust(10**9) }}",
    "zfill": "{{ '1'.zfill(10**9) }}",
    "expandtabs": "{{ '\t'.expandtabs(10**9) }}",
    "replace": "{{ ('a' * 10**5).replace('a', 'b' * 10**5) }}",
    "join": "{{ ('b' * 10**6).join(['', ''] * 10**5) }}",
    "indent": "{{ 'a\nb' | indent(10**9) }}",
    "batch": "{{ [1] | batch(10**9, 'x') | list }}",
    "slice": "{{ [1] | slice(10**9) | list }}",
    "tojson indent": "{{ [[1]] | tojson(indent=10**9) }}",
    "lipsum": "{{ lipsum(n=10**7) }}",
    "recursive macro": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "doubling text": "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "doubling list": "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
    "doubling hash": "{% set n = namespace(x=(1,)) %}{% for i in range(50) %}{% set n.x = (n.x, n.x) %}{% endfor %}{{ {n.x: 1} }}",
    "recursive loop": "{% for i in [1] recursive %}{{ loop([1]) }}{{ loop([1]) }}{% endfor %}",
    "deep brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "long sum": "{{ 1" + "+1" * 20_000 + " }}",
    "deep blocks": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "open braces": "{{ " * 100_000,
    "long output": "{% for i in range(9999) %}0123456789{% endfor %}",
    "too long": "x" * (MAX_TEMPLATE_LEN + 1),
    "sort": "{% for i in range(9999) %}{% set x = range(99999) | sort(reverse=i % 2 == 0) %}{% endfor %}",
    "regex": "{{ ('<' * 50000) | striptags }}{% for i in range(9999) %}{{ ('&' * 9999) | urlize }}{% endfor %}",
}  # fmt: skip

ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ namespace(__class__=1) }}",
    "{{ raise_exception.__globals__ }}",
    "{{ dict.__class__ }}{{ dict.__call__.__func__ }}",
    "{{ strftime_now.__code__ }}",
    "{{ (messages | map(attribute='__class__') | list) and messages[0].__class__.__base__ }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ '%s' | attr('format') | attr('__globals__') }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(a=1) }}",
    "{% include 'x' %}",
    "{% import 'os' as os %}",
    "{% extends '/etc/passwd' %}",
)


@pytest.fixture(scope="module")
def process() -> Iterator[TemplateProcess]:
    process = TemplateProcess()
    yield process
    process.close()


@pytest.mark.parametrize("name", list(BOMBS))
def test_bombs_end_soon(process: TemplateProcess, name: str) -> None:
    start = time.monotonic()
    with pytest.raises(TemplateError):
        process.render(BOMBS[name], {}, _SHORT)
    assert time.monotonic() - start < _SHORT.wall_seconds
    assert process.render("{{ 1 + 1 }}", {}, _SHORT) == "2"


@pytest.mark.parametrize("template", ESCAPES)
def test_the_sandbox_holds(process: TemplateProcess, template: str) -> None:
    try:
        text = process.render(template, {"messages": [{"role": "user"}]}, _SHORT)
    except TemplateError:
        return
    assert text.strip() == ""  # what the sandbox hides is undefined, and undefined renders as nothing


def test_the_process_can_open_nothing(process: TemplateProcess) -> None:
    resource = pytest.importorskip("resource")
    process.render("", {}, _SHORT)
    pid = process.pid
    if not hasattr(resource, "prlimit") or pid is None:
        pytest.skip("only Linux can read the limits of another process")
    assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (3, 3)
    assert resource.prlimit(pid, resource.RLIMIT_FSIZE) == (0, 0)
    assert resource.prlimit(pid, resource.RLIMIT_AS)[1] == 512 * 2**20


def test_the_environment_is_not_passed_on(process: TemplateProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEED_OSS_TEST_SECRET", "s3cret")
    process.close()
    process.render("", {}, _SHORT)
    environ = f"/proc/{process.pid}/environ"
    if not os.path.exists(environ):  # noqa: PTH110
        pytest.skip("only Linux shows the environment of another process")
    with open(environ, "rb") as file:  # noqa: PTH123
        assert b"s3cret" not in file.read()


def test_output_may_be_as_long_as_the_limit(process: TemplateProcess) -> None:
    limits = RenderLimits(max_chars=5)
    assert process.render("{{ 'a' * 5 }}", {}, limits) == "aaaaa"
    with pytest.raises(TemplateError, match="longer than 5 characters"):
        process.render("{{ 'a' * 6 }}", {}, limits)


def test_the_reason_is_given(process: TemplateProcess) -> None:
    with pytest.raises(TemplateError, match="no system role, please"):
        process.render("{{ raise_exception('no system role, please') }}", {}, _SHORT)
    with pytest.raises(TemplateError, match=r"TemplateSyntaxError: .*\(line 2\)"):
        process.render("\n{% if %}", {}, _SHORT)
    with pytest.raises(TemplateError, match=r"took more than 0\.15 s"):
        process.render(BOMBS["nested loops"], {}, _SHORT)
    with pytest.raises(TemplateError, match="512 MiB"):
        process.render(BOMBS["string times"], {}, _SHORT)


def test_a_killed_process_is_replaced(process: TemplateProcess) -> None:
    process.render("", {}, _SHORT)
    first = process.pid
    os.kill(first or 0, 9)
    for _ in range(2):  # the dead one may be noticed only when it is written to
        try:
            assert process.render("x", {}, _SHORT) == "x"
        except TemplateError:
            continue
    assert process.pid != first


def test_start_does_not_wait() -> None:
    process = TemplateProcess()
    process.start()
    assert process.render("x", {}, _SHORT) == "x"
    process.close()
    process.close()


def test_threads_share_it(process: TemplateProcess) -> None:
    found: list[str] = []

    def work(number: int) -> None:
        found.extend(process.render("{{ n }}", {"n": number}, _SHORT) for _ in range(20))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(str(number) for number in range(4) for _ in range(20))


def _render_in_child(queue: "multiprocessing.Queue[tuple[str, int | None]]") -> None:
    queue.put((SHARED.render("child", {}, _SHORT), SHARED.pid))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_gets_its_own() -> None:
    assert SHARED.render("parent", {}, _SHORT) == "parent"
    own = SHARED.pid
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[tuple[str, int | None]] = context.Queue()
    child = context.Process(target=_render_in_child, args=(queue,))
    child.start()
    text, pid = queue.get(timeout=30)
    child.join()
    assert text == "child"
    assert pid != own
    assert (SHARED.render("parent", {}, _SHORT), SHARED.pid) == ("parent", own)


def test_surrogates_and_odd_text_pass(process: TemplateProcess) -> None:
    for text in ("\ud800", "\x00", "🙂", "\r\n", ""):
        assert process.render("{{ x }}", {"x": text}, _SHORT) == text


def test_reasons_cannot_command_a_terminal(process: TemplateProcess) -> None:
    with pytest.raises(TemplateError) as caught:
        process.render("{{ raise_exception('\\x1b]0;pwned\\x07\\x1b[31m\\u202eevil') }}", {}, RenderLimits())
    assert "\\x1b]0;pwned\\x07\\x1b[31m\\u202eevil" in str(caught.value)
    assert not {"\x1b", "\x07", "\u202e"} & set(str(caught.value))


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ 'a b' | wordwrap(1) }}", "a\nb"),
        ("{{ '<b>x</b> &amp;' | striptags }}", "x &"),
        ("{{ 'abc'.encode('idna') | length }}", "3"),
    ],
)
def test_filters_that_load_more_of_python(process: TemplateProcess, template: str, text: str) -> None:
    assert process.render(template, {}, RenderLimits()) == text


def test_what_cannot_be_loaded_names_no_file(process: TemplateProcess) -> None:
    with pytest.raises(TemplateError) as caught:
        process.render("{{ 'a'.encode('cp500') }}", {}, RenderLimits())
    assert "it asked for a part of Python that templates do not have" in str(caught.value)
    assert "/" not in str(caught.value)
