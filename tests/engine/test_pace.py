"""Tokens that are said together."""

import os
from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from seed_oss.engine.child_pipes import Inbox, Outbox
from seed_oss.engine.messages import (
    Close,
    Ended,
    Event,
    LogProbs,
    Pulse,
    Refused,
    Started,
    Submit,
    Tokens,
    decode_events,
    encode,
)
from seed_oss.engine.pace import Pace
from seed_oss.engine.process_main import EngineLoop
from tests.engine.scripted_core import ScriptedCore

LOGPROBS = LogProbs((-1.0,), ((),), ((),))


def begun(interval_s: float = 1.0) -> Pace:
    """One that has said the first tokens of two choices just now."""
    pace = Pace(interval_s)
    first: list[Event] = [Tokens("a", 0, (1,)), Tokens("b", 0, (1,))]
    assert pace.take(first, 0.0) == first
    return pace


def test_tokens_of_an_interval_are_said_with_the_step_that_is_nearest_to_its_end() -> None:
    pace = begun()
    assert pace.take([Tokens("a", 0, (2,)), Tokens("b", 0, (2, 3))], 0.3) == []
    assert pace.take([Tokens("b", 0, (4,))], 0.6) == []
    assert pace.take([Tokens("a", 0, (3,))], 0.9) == [
        Tokens("a", 0, (2,)),
        Tokens("b", 0, (2, 3, 4)),
        Tokens("a", 0, (3,)),
    ]
    assert pace.take([Tokens("a", 0, (4,))], 1.2) == []
    assert pace.rest() == [Tokens("a", 0, (4,))]
    assert pace.rest() == []


def test_steps_a_little_shorter_than_the_interval_are_said_each() -> None:
    pace = begun()
    for number in range(1, 5):
        assert pace.take([Tokens("a", 0, (number,))], 0.9 * number) == [Tokens("a", 0, (number,))]


def test_what_is_not_held() -> None:
    for urgent in (
        Tokens("c", 0, (1,)),
        Tokens("a", 1, (1,)),
        Started("c"),
        Ended("b", 0, "eos"),
        Refused("c", "invalid", "no"),
        Pulse(1),
    ):
        pace = begun()
        assert pace.take([Tokens("a", 0, (2,))], 0.1) == []
        assert pace.take([urgent], 0.2) == [Tokens("a", 0, (2,)), urgent]


def test_without_an_interval_nothing_is() -> None:
    assert begun(0.0).take([Tokens("a", 0, (2,))], 0.0) == [Tokens("a", 0, (2,))]


def test_many_choices_are_said_less_often() -> None:
    pace = Pace(0.5, 0.4)
    pace.take([Tokens(name, 0, (1,)) for name in "abc"], 0.0)
    assert pace.take([Tokens("a", 0, (2,))], 1.1) == []
    assert pace.take([Tokens("a", 0, (3,))], 1.3) == [Tokens("a", 0, (2,)), Tokens("a", 0, (3,))]
    pace.take([Ended(name, 0, "eos") for name in "bc"], 1.4)
    assert pace.take([Tokens("a", 0, (4,))], 1.6) == []
    assert pace.take([Tokens("a", 0, (5,))], 1.85) == [Tokens("a", 0, (4,)), Tokens("a", 0, (5,))]


def test_an_interval_of_zero_holds_nothing_of_many_either() -> None:
    pace = Pace(0.0, 0.4)
    pace.take([Tokens(name, 0, (1,)) for name in "abc"], 0.0)
    assert pace.take([Tokens("a", 0, (2,))], 0.1) == [Tokens("a", 0, (2,))]


def test_log_probabilities_stay_with_their_tokens() -> None:
    pace = begun()
    one, two = Tokens("a", 0, (2,), LOGPROBS), Tokens("a", 0, (3,), LOGPROBS)
    assert pace.take([one], 0.1) == []
    assert pace.take([two], 0.2) == []
    assert pace.rest() == [one, two]


def test_a_name_that_comes_again_begins_again() -> None:
    pace = begun()
    pace.take([Ended("a", 0, "eos")], 0.1)
    assert pace.take([Tokens("a", 0, (1,))], 0.2) == [Tokens("a", 0, (1,))]


STEPS = st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 1)), unique=True), max_size=30)


@given(STEPS, st.floats(0.0, 5.0))
def test_nothing_is_lost_and_every_choice_keeps_its_order(
    steps: list[list[tuple[str, int]]], interval_s: float
) -> None:
    pace, said, last = Pace(interval_s), list[Event](), list[Event]()
    sent: dict[tuple[str, int], list[int]] = {}
    for number, step in enumerate(steps):
        for key in step:
            sent.setdefault(key, []).append(number)
        said += pace.take([Tokens(*key, (number,)) for key in step], float(number))
    for key in sent:
        last.append(Ended(*key, "length"))
    said += pace.take(last, float(len(steps)))
    got: dict[tuple[str, int], list[int]] = {}
    ended = set[tuple[str, int]]()
    for event in said:
        assert isinstance(event, Tokens | Ended)
        key = event.request_id, event.choice
        assert key not in ended
        if isinstance(event, Tokens):
            got.setdefault(key, []).extend(event.token_ids)
        else:
            ended.add(key)
    assert (got, ended) == (sent, set(sent))


class Commands(Inbox):
    """Gives one list of lines a round."""

    def __init__(self, *rounds: list[bytes]) -> None:
        self._rounds = iter(rounds)

    def take(self, wait_s: float) -> list[bytes]:
        return next(self._rounds)


class Quiet(ScriptedCore):
    """Says nothing of itself."""

    def step(self) -> list[Event]:
        return [event for event in super().step() if isinstance(event, Started | Tokens | Ended)]


def test_the_loop_says_what_it_holds_before_it_obeys_and_before_it_ends() -> None:
    source, sink = os.pipe()
    inbox = Commands([encode(Submit("a", (1000,)))], *[[]] * 9, [encode(Close(drain=False))])
    EngineLoop(Quiet(), inbox, Outbox(sink), clock=lambda: 0.0, pace=Pace(1e9)).run()
    lines = os.read(source, 2**16).splitlines()
    os.close(source)
    os.close(sink)
    pieces = [one for one in chain.from_iterable(map(decode_events, lines)) if isinstance(one, Tokens)]
    assert [len(one.token_ids) for one in pieces] == [1, 9, 1]
