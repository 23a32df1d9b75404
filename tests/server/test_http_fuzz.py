"""Random requests made from our own OpenAPI document, such as it allows and such as it does not.

`SEED_OSS_HTTP_CASES` is how many; the test command runs 1,000.
"""

import os
from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from tests.server.api_calls import MODEL, app, chat, engine

CASES = int(os.environ.get("SEED_OSS_HTTP_CASES", "1000"))
PATHS = (
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
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


def check(case: Any) -> None:
    """A documented status that is no fault of ours, and errors in their shape."""
    if isinstance(case.body, dict) and case.body.get("model"):
        case.body["model"] = MODEL
    response = case.call()
    assert str(response.status_code) in case.operation.definition.raw["responses"]
    assert response.status_code < 500, case.body
    if response.status_code >= 400:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("path", PATHS)
def test_random_requests(path: str, mode: GenerationMode, counted: Callable[..., None]) -> None:
    client = engine()
    usual = chat(client).body["choices"]
    operation = schemathesis.openapi.from_asgi("/openapi.json", app(client))[path]["POST"]
    number = -(-CASES // (len(PATHS) * len(MODES)))

    @given(operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=number,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def run(case: Any) -> None:
        check(case)

    run()
    counted(requests=number)
    assert chat(client).body["choices"] == usual
