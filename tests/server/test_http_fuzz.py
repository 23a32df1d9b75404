"""Random requests made from our own OpenAPI document, such as it allows and such as it does not.

`SEED_OSS_HTTP_CASES` is how many; the test command runs 1,000. They go to the endpoints over a scripted engine, and a
tenth of as many through a whole server, over its port, to a real engine.
"""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from tests.cli.conftest import make_checkpoint
from tests.server.api_calls import MODEL, app, chat, engine
from tests.trust.real_server import RealServer, completion, real_server

CASES = int(os.environ.get("SEED_OSS_HTTP_CASES", "1000"))
MAX_S = 30.0  # of one case
POSTS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/tokenize",
    "/detokenize",
    "/score",
    "/classify",
    "/token_classify",
    "/question_answering",
)
OTHERS = (
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model_id}"),
    ("GET", "/v1/responses/{response_id}"),
    ("DELETE", "/v1/responses/{response_id}"),
)
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
OPERATIONS = [
    *(("POST", path, mode) for path in POSTS for mode in MODES),
    *((method, path, GenerationMode.POSITIVE) for method, path in OTHERS),
]
each_operation = pytest.mark.parametrize(
    ("method", "path", "mode"), OPERATIONS, ids=[f"{method}-{path}-{mode.value}" for method, path, mode in OPERATIONS]
)


def check(case: Any, model: str, **how: Any) -> None:
    """A documented status that is no fault of ours, in time, and errors in their shape."""
    if isinstance(case.body, dict) and case.body.get("model"):
        case.body["model"] = model
    start = time.monotonic()
    response = case.call(**how)
    assert time.monotonic() - start < MAX_S, case.body
    assert str(response.status_code) in case.operation.definition.raw["responses"]
    assert response.status_code < 500, case.body
    if response.status_code >= 400:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def run_cases(operation: Any, mode: GenerationMode, number: int, model: str, **how: Any) -> None:
    """So many random requests of an operation."""

    @given(operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=number,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def run(case: Any) -> None:
        check(case, model, **how)

    run()


@each_operation
def test_random_requests(method: str, path: str, mode: GenerationMode, counted: Callable[..., None]) -> None:
    client = engine()
    usual = chat(client).body["choices"]
    operation = schemathesis.openapi.from_asgi("/openapi.json", app(client))[path][method]
    number = -(-CASES // len(OPERATIONS))
    run_cases(operation, mode, number, MODEL)
    counted(requests=number)
    assert chat(client).body["choices"] == usual


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    folder = make_checkpoint(tmp_path_factory.mktemp("fuzz") / "model")
    with real_server(folder, spec={"max_num_seqs": 16, "max_model_len": 96}) as running:
        running.event("ready")
        yield running


@pytest.mark.xdist_group("fuzz of a whole server")
@each_operation
def test_random_requests_to_a_whole_server(
    method: str, path: str, mode: GenerationMode, server: RealServer, counted: Callable[..., None]
) -> None:
    good = completion([5, 60, 7, 80], 8, logprobs=1)
    usual = server.ask("/v1/completions", good)[2]["choices"]
    operation = schemathesis.openapi.from_dict(app(engine()).openapi())[path][method]
    number = -(-CASES // (10 * len(OPERATIONS)))
    url = f"http://127.0.0.1:{server.port}"
    run_cases(operation, mode, number, "tiny", base_url=url, timeout=MAX_S)
    counted(requests=number)
    assert server.ask("/v1/completions", good)[2]["choices"] == usual
