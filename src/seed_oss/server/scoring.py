"""POST /score, /classify, /token_classify and /question_answering: numbers about texts."""

import math
from collections import deque
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from seed_oss.config.sampling import MAX_LOGPROBS, SamplingParams
from seed_oss.engine.messages import Computed, LogProbs
from seed_oss.server.api import Api, now, request_id
from seed_oss.server.bodies import Ignored
from seed_oss.server.computing import compute
from seed_oss.server.embeddings import InputRequest
from seed_oss.server.errors import ApiError, refusing
from seed_oss.server.sampling_fields import Priority
from seed_oss.server.streaming import JSONAnswer, unless_gone
from seed_oss.server.texts import Texts
from seed_oss.server.token_probs import LOWEST, completion_form, token_prob
from seed_oss.server.usage import Usage

MAX_ANSWER_TOKENS = 512
_CHARS_PER_PROB = 24


class ScoreRequest(InputRequest):
    """A body of /score.

    Attributes:
        context: a text before every input, which is not scored itself.
        logprobs: log-probabilities of the tokens too, and of this many most probable ones.
    """

    context: str | None = None
    logprobs: Annotated[int | None, Field(ge=0, le=MAX_LOGPROBS)] = None


class ClassifyRequest(InputRequest):
    """A body of /classify and /token_classify."""


class QuestionRequest(Ignored):
    """A body of /question_answering."""

    model: Annotated[str | None, Field(min_length=1, max_length=256)] = None
    question: Annotated[str, Field(min_length=1)]
    context: Annotated[str, Field(min_length=1)]
    max_answer_tokens: Annotated[int | None, Field(ge=1, le=MAX_ANSWER_TOKENS)] = None
    priority: Priority = None


async def score(api: Api, request: Request) -> Response:
    """How probable texts are to the model."""
    asked, _ = await api.read(request, ScoreRequest)
    adapter = api.adapter_of(asked.model)
    api.check_task("score")
    given = asked.context or ""
    num = api.check_chars(given, "context")
    context = await unless_gone(request, api.work(lambda: api.texts.encode_plain(given) if given else (), num))
    rows = [(*context, *row) for row in await asked.rows(api, request)]
    params = SamplingParams(prompt_logprobs=asked.logprobs or 0)
    results, usage = await compute(
        api, request, "score", rows, param="input", params=params, priority=asked.priority, adapter=adapter
    )

    def answer() -> Response:
        data = [
            _scored(api.texts, index, row[len(context) :], _probs(result), len(context), asked.logprobs)
            for index, (row, result) in enumerate(zip(rows, results, strict=True))
        ]
        return _list(api, request, "score", asked.model, data, usage)

    return await unless_gone(request, api.finish(answer, _num_chars(rows)))


def _num_chars(rows: Sequence[Sequence[int]]) -> int:
    """About."""
    return 4 * sum(map(len, rows))


def _probs(result: Computed) -> LogProbs:
    if result.logprobs is None:
        raise ApiError("internal")
    return result.logprobs


def _scored(texts: Texts, index: int, ids: Sequence[int], probs: LogProbs, start: int, num_top: int | None) -> Any:
    values = [value if value is None else max(value, LOWEST) for value in probs.values[start:]]
    known = [value for value in values if value is not None]
    total = math.fsum(known)
    made: dict[str, Any] = {
        "object": "score",
        "index": index,
        "logprob": total,
        "num_tokens": len(known),
        "perplexity": math.exp(min(700.0, -total / len(known))) if known else None,
    }
    if num_top is not None:
        tokens = [token_prob(token_id, probs, start + at, num_top) for at, token_id in enumerate(ids)]
        form = completion_form(texts, tokens, values, 0)
        made["tokens"] = {name: form[name] for name in ("tokens", "token_logprobs", "top_logprobs")}
    return made


async def classify(api: Api, request: Request) -> Response:
    """Which class texts belong to."""
    asked, _ = await api.read(request, ClassifyRequest)
    adapter = api.adapter_of(asked.model)
    api.check_task("classify")
    rows = await asked.rows(api, request)
    results, usage = await compute(
        api, request, "classify", rows, param="input", priority=asked.priority, adapter=adapter
    )

    def answer() -> Response:
        data = [
            {"object": "classification", "index": index, **_class(api, result.values[0] if result.values else ())}
            for index, result in enumerate(results)
        ]
        return _list(api, request, "classify", asked.model, data, usage)

    num_chars = _CHARS_PER_PROB * sum(len(row) for one in results for row in one.values)
    return await unless_gone(request, api.written(answer, num_chars))


async def token_classify(api: Api, request: Request) -> Response:
    """Which class each token of texts belongs to."""
    asked, _ = await api.read(request, ClassifyRequest)
    adapter = api.adapter_of(asked.model)
    api.check_task("token_classify")
    rows = await asked.rows(api, request)
    results, usage = await compute(
        api, request, "token_classify", rows, param="input", priority=asked.priority, adapter=adapter
    )

    def answer() -> Response:
        data = [
            {
                "object": "token_classification",
                "index": index,
                "tokens": [
                    {"token": api.texts.text(token_id), **_class(api, values)}
                    for token_id, values in zip(row, result.values, strict=False)
                ],
            }
            for index, (row, result) in enumerate(zip(rows, results, strict=True))
        ]
        return _list(api, request, "token_classify", asked.model, data, usage)

    return await unless_gone(request, api.finish(answer, _num_chars(rows)))


def _class(api: Api, logits: Sequence[float]) -> dict[str, Any]:
    """The most probable class; the numbers are made probabilities."""
    if not logits or not all(map(math.isfinite, logits)):
        raise ApiError("internal")
    highest = max(logits)
    weights = [math.exp(value - highest) for value in logits]
    probs = [weight / math.fsum(weights) for weight in weights]
    best = probs.index(max(probs))
    labels = api.served.labels
    return {"label": labels[best] if best < len(labels) else f"LABEL_{best}", "probs": probs, "num_classes": len(probs)}


async def question_answering(api: Api, request: Request) -> Response:
    """Where in a text the answer to a question stands."""
    asked, _ = await api.read(request, QuestionRequest)
    adapter = api.adapter_of(asked.model)
    api.check_task("question_answer")
    num = api.check_chars([asked.question, asked.context], "context")
    ids, spans = await unless_gone(request, api.work(lambda: _encoded(api.texts, asked.question, asked.context), num))
    results, usage = await compute(
        api, request, "question_answer", [ids], param="context", priority=asked.priority, adapter=adapter
    )
    first = len(ids) - len(spans)
    rows, longest = results[0].values[first:], asked.max_answer_tokens or 30
    start, end, value = await api.finish(lambda: _best_span(rows, longest), len(asked.context))
    left, right = _trimmed(asked.context, spans[start][0], spans[end][1])
    answer = {
        "object": "answer",
        "index": 0,
        "answer": asked.context[left:right],
        "start": left,
        "end": right,
        "score": value,
    }
    return _list(api, request, "question_answering", asked.model, [answer], usage)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """A span without outer whitespace; tokens have the blank before them."""
    span = text[start:end]
    return start + len(span) - len(span.lstrip()), end - len(span) + len(span.rstrip()) if span.strip() else end


def _encoded(texts: Texts, question: str, context: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids of a question and a text, and the characters of the text that its tokens are; the text comes last."""
    with refusing("context"):
        before = texts.encode_plain(question)
        ids, spans = texts.encode_with_spans(context)
    if not ids:
        raise ApiError("invalid", "context has no tokens; give a text", param="context")
    return [*before, *ids], spans


def _best_span(rows: Sequence[Sequence[float]], max_len: int) -> tuple[int, int, float]:
    """The span of tokens whose start and end are the most probable together."""
    if not rows or any(len(row) != 2 or not all(map(math.isfinite, row)) for row in rows):
        raise ApiError("internal")
    starts: deque[int] = deque()  # within reach of an end, the most probable first
    best = (-math.inf, 0, 0)
    for end, row in enumerate(rows):
        while starts and rows[starts[-1]][0] < row[0]:
            starts.pop()
        starts.append(end)
        if starts[0] <= end - max_len:
            starts.popleft()
        best = max(best, (rows[starts[0]][0] + row[1], -starts[0], -end))
    return -best[1], -best[2], best[0]


def _list(api: Api, request: Request, kind: str, model: str | None, data: list[Any], usage: Usage) -> Response:
    return JSONAnswer(
        {
            "id": f"{kind}-{request_id(request)}",
            "object": "list",
            "created": now(),
            "model": model or api.served.name,
            "data": data,
            "usage": {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens},
        }
    )
