"""Messages on the wire: nothing gets lost, nothing else gets in."""

import dataclasses
import json
import re
import subprocess
import sys
from typing import Any

import pytest

from seed_oss.config.sampling import SamplingParams
from seed_oss.engine import messages as m
from seed_oss.engine.prompt_tasks import PromptTasks
from seed_oss.errors import CheckpointError, ConfigError, InputError, StateError

LOG_PROBS = m.LogProbs((None, -0.5), ((1, 2), ()), ((-1.5, -2.0), ()))
FORM = m.AnswerForm(512, "hard", [{"type": "function", "function": {"name": "f"}}], "auto", {"type": "text"}, False)
PARAMS = SamplingParams(n=2, stop="é\n", logit_bias={5: 1.0}, dry_sequence_breakers=["\n", 3], seed=2**64 - 1)
MESSAGES = [
    m.Submit("r", (1, 2), PARAMS, "generate", FORM, 3, "n", "lora", {"pooling": "mean"}),
    m.Submit("r", ()),
    m.Abort("r"),
    m.Close(False),
    m.Ready(4096, 16, 155136, ("generate",), ("lora",), "int4", False, 2048),
    m.Refused("r", "overloaded", "later", None, 1.5),
    m.Started("r", (3, 4), 7),
    m.Tokens("r", 1, (5,), LOG_PROBS),
    m.Computed("r", ((0.5, 1e-8),), LOG_PROBS),
    m.Ended("r", 1, "stop_string", None, None, 5, 4, 3, "\u2028"),
    m.Pulse(9, {"rows": 1.0}),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda one: type(one).__name__)
def test_a_message_comes_back_as_it_was_on_one_line(message: m.Command | m.Event) -> None:
    line = m.encode(message)
    assert line.index(b"\n") == len(line) - 1
    assert m.decode(line) == message


@pytest.mark.parametrize(
    "body",
    [
        {"is": "Tokens", "request_id": "r", "choice": [], "token_ids": [1]},
        {"is": "Tokens", "request_id": "r", "choice": True, "token_ids": [1]},
        {"is": "Tokens", "request_id": "r", "choice": 0, "token_ids": 5},
        {"is": "Tokens", "request_id": "r", "choice": 0, "token_ids": ["5"]},
        {"is": "Tokens", "request_id": {}, "choice": 0, "token_ids": [5]},
        {"is": "Tokens", "request_id": "r", "choice": 0, "token_ids": [5], "logprobs": 3},
        {"is": "Refused", "request_id": "r", "kind": "other", "message": ""},
        {"is": "Pulse", "num_steps": 1.5},
        {"is": "Pulse", "num_steps": 1, "stats": {"num_running": "1"}},
        {"is": "Pulse", "num_steps": 1, "stats": {"num_running": [1]}},
        {"is": "Pulse", "num_steps": 1, "stats": {"num_running": None}},
        {"is": "Submit", "request_id": "r", "prompt_ids": [1], "params": []},
    ],
)
def test_values_of_another_type_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        m.decode(json.dumps(body).encode())


@pytest.mark.parametrize(
    "line",
    [b"[]", b'{"is":"Popen","args":"x"}', b'{"is":"Abort"}', b'{"is":"Abort","request_id":"r","more":1}', b'{"is":[]}'],
)
def test_what_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(InputError):
        m.decode(line)


def test_plain_tokens_that_follow_each_other_are_one_line() -> None:
    plain = [m.Tokens("a", 0, (5,)), m.Tokens("b", 1, (6, 7)), m.Tokens("c", 0, ())]
    events = [*plain, m.Ended("a", 0, "eos"), m.Tokens("b", 1, (8,), LOG_PROBS), m.Tokens("b", 1, (9,))]
    lines = list(m.encode_events(events))
    assert [len(m.decode_events(line)) for line in lines] == [3, 1, 1, 1]
    assert [one for line in lines for one in m.decode_events(line)] == events
    assert all(line.count(b"\n") == 1 for line in lines)


@pytest.mark.parametrize(
    "row",
    [
        "5",
        "[]",
        '["r",0]',
        '["r",0,[1],2]',
        "[1,0,[1]]",
        '["r",true,[1]]',
        '["r",0,1]',
        '["r",0,[true]]',
        '["r",0,["1"]]',
    ],
)
def test_rows_that_are_no_tokens_are_refused(row: str) -> None:
    with pytest.raises(InputError):
        m.decode_events(f'[["r",0,[1]],{row}]'.encode())


def test_numbers_that_json_does_not_have_are_refused_on_both_sides() -> None:
    with pytest.raises(ValueError, match="JSON"):
        m.encode(m.Pulse(1, {"x": float("nan")}))
    with pytest.raises(CheckpointError):
        m.decode(b'{"is":"Pulse","num_steps":NaN}')


def test_sampling_parameters_are_checked_when_they_are_made() -> None:
    for wrong in ({"n": 17}, {"temperature": 2.1}, {"stop": ["a"] * 17}, {"stop": "a" * 257}, {"logprobs": 21}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            SamplingParams(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="min_tokens"):
        SamplingParams(min_tokens=3, max_tokens=2)
    with pytest.raises(ConfigError, match="no_such"):
        SamplingParams.from_json({"no_such": 1})
    everything = {one.name for one in dataclasses.fields(SamplingParams)}
    assert json.loads(json.dumps(PARAMS.to_json())).keys() <= everything


def test_messages_load_no_torch() -> None:
    code = "import sys, seed_oss.engine.client, seed_oss.engine.messages; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_cannot_be_one_line_ends_its_choice_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m, "MAX_MESSAGE_BYTES", 1000)
    infinite = m.LogProbs((float("-inf"),), ((),), ((),))
    events = [
        m.Computed("long", ((0.123456789,) * 200,)),
        m.Tokens("a", 1, (5,)),
        m.Tokens("infinite", 2, (5,), infinite),
        m.Computed("b", ((0.5,),)),
    ]
    long, plain, wrong, fine = [one for line in m.encode_events(events) for one in m.decode_events(line)]
    assert (plain, fine) == (events[1], events[3])
    for end, request_id, choice, said in ((long, "long", 0, "the limit is 1000"), (wrong, "infinite", 2, "no number")):
        assert isinstance(end, m.Ended)
        assert (end.request_id, end.choice, end.reason, end.kind) == (request_id, choice, "error", "internal")
        assert said in (end.message or "")
    with pytest.raises(StateError, match="the limit is 1000"):
        list(m.encode_events([m.Pulse(1, {f"number {one}": 1.0 for one in range(200)})]))


LONGEST = -2.2250738585072014e-308  # no float takes more characters


@pytest.mark.parametrize(
    ("task", "num_top", "num_labels"),
    [("score", None, 1), ("score", 20, 1), ("generate", 20, 1), ("token_classify", None, 70)],
)
def test_results_of_a_prompt_that_is_taken_go_into_one_message(task: Any, num_top: int | None, num_labels: int) -> None:
    params = SamplingParams(prompt_logprobs=num_top)
    tasks = PromptTasks(lambda hidden: hidden, lambda hidden: hidden, num_labels)
    with pytest.raises(InputError, match="the limit is") as refused:
        tasks.of(m.Submit("r", (1,) * 3_000_000, params, task), (1,) * 3_000_000)
    most = int(re.findall(r"limit is (\d+)", str(refused.value))[0])
    assert tasks.of(m.Submit("r", (), params, task), (1,) * most) is not None
    top = num_top or 0
    few = most // 100
    one = m.LogProbs((LONGEST,) * few, ((99_999_999,) * top,) * few, ((LONGEST,) * top,) * few)
    full = m.Computed("r", ((LONGEST,) * num_labels,) * few) if task == "token_classify" else m.Computed("r", (), one)
    assert 0.9 * m.MAX_MESSAGE_BYTES < 100 * len(m.encode(full)) < 1.001 * m.MAX_MESSAGE_BYTES
