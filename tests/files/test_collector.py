"""The collector is off where much is made that stays, and as it was before and after."""

import gc
import json
import os
import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from seed_oss._collector import collector_paused
from seed_oss.files import parse_json

_IMPORT = """
import gc
ran = []
gc.callbacks.append(lambda phase, info: ran.append(info["generation"]) if phase == "start" else None)
from seed_oss import SeedOssForCausalLM
print(2 in ran, gc.isenabled(), gc.get_freeze_count())
"""


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    assert gc.isenabled()
    yield
    gc.enable()
    gc.unfreeze()


def counted(work: Callable[[], object]) -> int:
    """How often the collector ran meanwhile."""
    ran: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            ran.append(info["generation"])

    gc.callbacks.append(note)
    try:
        work()
    finally:
        gc.callbacks.remove(note)
    return len(ran)


def test_what_is_made_meanwhile_is_taken_for_long_lived() -> None:
    with collector_paused():
        assert not gc.isenabled()
        made = [[number] for number in range(10_000)]
    assert gc.isenabled()
    assert any(one is made[-1] for one in gc.get_objects(generation=2))
    assert gc.get_freeze_count() == 0


def test_garbage_of_that_time_is_found_later() -> None:
    with collector_paused():
        ring: list[object] = []
        ring.append(ring)
        del ring
    assert gc.collect() >= 1


def test_pauses_within_pauses_and_in_other_threads() -> None:
    inside, may_end = Event(), Event()

    def other() -> None:
        with collector_paused():
            inside.set()
            assert may_end.wait(60)

    with ThreadPoolExecutor(1) as pool:
        with collector_paused(), collector_paused():
            future = pool.submit(other)
            assert inside.wait(60)
        assert not gc.isenabled()  # the other one goes on
        may_end.set()
        future.result()
    assert gc.isenabled()


def test_it_stays_off_where_it_was_off() -> None:
    gc.disable()
    with collector_paused():
        pass
    assert not gc.isenabled()


def test_what_somebody_froze_stays_frozen() -> None:
    gc.freeze()
    count = gc.get_freeze_count()
    with collector_paused():
        pass
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0.9 * count  # some of it has gone by itself meanwhile


def test_it_goes_on_after_an_error() -> None:
    with pytest.raises(KeyError), collector_paused():
        raise KeyError
    assert gc.isenabled()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_it_goes_on_in_the_child_of_a_fork() -> None:
    with collector_paused(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which the child does not use
        child = os.fork()
        if child == 0:
            is_on = gc.isenabled()
        else:
            assert os.waitpid(child, 0)[1] == 0
            assert not gc.isenabled()
    if child == 0:  # the block has ended here, too, and others may begin
        with collector_paused():
            is_on &= not gc.isenabled()
        os._exit(0 if is_on and gc.isenabled() else 1)


def test_a_large_file_is_parsed_without_it() -> None:
    data = json.dumps([[number, number] for number in range(100_000)]).encode()
    assert counted(lambda: json.loads(data)) > 10
    assert counted(lambda: parse_json(data, source="x")) == 0


def test_small_documents_leave_the_collector_to_what_it_does() -> None:
    """A server parses one with each message, and its garbage has to go all the same."""

    class Held:
        pass

    held = Held()
    held.itself = held  # type: ignore[attr-defined]
    seen = weakref.ref(held)
    del held
    document = json.dumps({"a": [{"b": [number]} for number in range(100)]}).encode()
    for _ in range(2000):
        parse_json(document, source="x")
        [[] for _ in range(1000)]
    assert seen() is None


def test_the_package_is_imported_without_it() -> None:
    found = subprocess.run([sys.executable, "-c", _IMPORT], capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout.split() == ["False", "True", "0"]
