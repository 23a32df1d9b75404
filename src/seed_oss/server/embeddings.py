"""POST /v1/embeddings."""

import base64
import math
import struct
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from seed_oss.engine.messages import Computed
from seed_oss.server.api import Api
from seed_oss.server.bodies import Ignored
from seed_oss.server.computing import compute
from seed_oss.server.errors import ApiError
from seed_oss.server.limits import MAX_INPUTS
from seed_oss.server.prompts import SCHEMA, encode_all, read_prompts
from seed_oss.server.sampling_fields import Priority
from seed_oss.server.streaming import JSONAnswer, unless_gone
from seed_oss.server.usage import Usage

_CHARS_PER_NUMBER = 20


class InputRequest(Ignored):
    """What all tasks take that read inputs and give no text."""

    model: Annotated[str | None, Field(min_length=1, max_length=256)] = None
    input: Annotated[Any, WithJsonSchema(SCHEMA)]
    priority: Priority = None

    async def rows(self, api: Api, request: Request) -> list[tuple[int, ...]]:
        """The ids of the inputs.

        Raises:
            ApiError: they are no texts and no ids, or too many.
        """
        size = api.vocab_size
        given = await api.made(
            request, lambda: read_prompts(self.input, "input", max_prompts=MAX_INPUTS, vocab_size=size)
        )
        num = sum(api.check_chars(one.text, "input") for one in given)
        for one in given:
            await unless_gone(request, api.check_long(one.text, "input"))
        return await unless_gone(request, api.work(lambda: encode_all(api.texts, given, "input"), num))


class EmbeddingRequest(InputRequest):
    """A body of /v1/embeddings."""

    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int | None, Field(ge=1, le=2**20)] = None
    pooling: Literal["last", "mean"] | None = None
    normalize: bool | None = None


async def embeddings(api: Api, request: Request) -> Response:
    """Turn texts into vectors."""
    asked, _ = await api.read(request, EmbeddingRequest)
    adapter = api.adapter_of(asked.model)
    api.check_task("embed")
    rows = await asked.rows(api, request)
    options = {"pooling": asked.pooling, "normalize": asked.normalize}
    options = {name: value for name, value in options.items() if value is not None}
    results, usage = await compute(
        api, request, "embed", rows, param="input", priority=asked.priority, adapter=adapter, options=options
    )
    model = asked.model or api.served.name
    num_chars = _CHARS_PER_NUMBER * sum(len(vector) for one in results for vector in one.values)
    return await unless_gone(request, api.finish(lambda: _listed(asked, results, usage, model), num_chars))


def _listed(asked: EmbeddingRequest, results: Sequence[Computed], usage: Usage, model: str) -> Response:
    vectors = [_vector(result.values[0] if result.values else (), asked) for result in results]
    return JSONAnswer(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": _written(vector, asked.encoding_format)}
                for index, vector in enumerate(vectors)
            ],
            "model": model,
            "usage": {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens},
        }
    )


def _vector(values: Sequence[float], asked: EmbeddingRequest) -> list[float]:
    """The first dimensions, of length 1: what OpenAI does."""
    size = len(values) if asked.dimensions is None else asked.dimensions
    if size > len(values):
        raise ApiError("invalid", f"dimensions is {size}; the model's vectors have {len(values)}", param="dimensions")
    cut = list(values[:size])
    length = math.sqrt(math.fsum(value * value for value in cut))
    if not math.isfinite(length):
        raise ApiError("internal")
    return cut if asked.normalize is False or length == 0.0 else [value / length for value in cut]


def _written(vector: Sequence[float], form: str | None) -> Any:
    """Numbers, or fp32 in little-endian order as base64."""
    if form != "base64":
        return list(vector)
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
