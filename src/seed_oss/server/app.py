"""The application: every endpoint, and what becomes of errors."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from seed_oss._version import __version__
from seed_oss.engine.client import EngineClient
from seed_oss.server.api import Api
from seed_oss.server.bodies import Body
from seed_oss.server.chat import chat_completions
from seed_oss.server.chat_request import ChatRequest
from seed_oss.server.completions import CompletionRequest, completions
from seed_oss.server.embeddings import EmbeddingRequest, embeddings
from seed_oss.server.errors import ApiError, ClientGoneError
from seed_oss.server.framing import shaped
from seed_oss.server.messages import count_tokens, create_message
from seed_oss.server.messages_request import CountRequest, MessagesRequest
from seed_oss.server.models import get_model, list_models
from seed_oss.server.openapi import DescribedApp, path_parameters, request_body, responses
from seed_oss.server.page_files import add_page
from seed_oss.server.responses import create_response, delete_response, get_response
from seed_oss.server.responses_request import ResponsesRequest
from seed_oss.server.scoring import (
    ClassifyRequest,
    QuestionRequest,
    ScoreRequest,
    classify,
    question_answering,
    score,
    token_classify,
)
from seed_oss.server.served import ApiSettings, ServedModel
from seed_oss.server.streaming import JSONAnswer
from seed_oss.server.tokens import DetokenizeRequest, TokenizeRequest, detokenize, tokenize

__all__ = ["ApiSettings", "ServedModel", "create_app"]

_Handler = Callable[[Api, Request], Awaitable[Response]]
_POSTS: dict[str, tuple[_Handler, type[Body]]] = {
    "/v1/chat/completions": (chat_completions, ChatRequest),
    "/v1/completions": (completions, CompletionRequest),
    "/v1/embeddings": (embeddings, EmbeddingRequest),
    "/v1/responses": (create_response, ResponsesRequest),
    "/v1/messages": (create_message, MessagesRequest),
    "/v1/messages/count_tokens": (count_tokens, CountRequest),
    "/tokenize": (tokenize, TokenizeRequest),
    "/detokenize": (detokenize, DetokenizeRequest),
    "/score": (score, ScoreRequest),
    "/classify": (classify, ClassifyRequest),
    "/token_classify": (token_classify, ClassifyRequest),
    "/question_answering": (question_answering, QuestionRequest),
}
_CLIENT_GONE = 499  # what logs show; nobody reads it


def create_app(client: EngineClient, served: ServedModel, settings: ApiSettings) -> FastAPI:
    """The API over an engine.

    A request's `state.namespace` and `state.request_id` are taken from whoever wraps the application.

    Args:
        client: the engine.
        served: the model.
        settings: how the endpoints behave.
    """
    api = Api(client, served, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        yield
        api.close()

    app = DescribedApp(
        title="seed-oss",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a path is one of those that keys are asked for, or none
        lifespan=lifespan,
    )
    app.state.bodies = [model for _, model in _POSTS.values()]
    _route(app, api, "GET", "/v1/models", list_models)
    _route(app, api, "GET", "/v1/models/{model_id:path}", get_model, path_parameters("model_id"))
    stored = path_parameters("response_id")
    _route(app, api, "GET", "/v1/responses/{response_id}", get_response, stored)
    _route(app, api, "DELETE", "/v1/responses/{response_id}", delete_response, stored)
    for path, (handler, model) in _POSTS.items():
        _route(app, api, "POST", path, handler, request_body(model))
    add_page(app)
    app.add_exception_handler(ApiError, _render)
    app.add_exception_handler(ClientGoneError, _nobody_reads)
    app.add_exception_handler(ClientDisconnect, _nobody_reads)
    app.add_exception_handler(HTTPException, _render_http)
    app.add_exception_handler(Exception, _render_internal)
    return app


def _route(
    app: FastAPI, api: Api, method: str, path: str, handler: _Handler, extra: dict[str, Any] | None = None
) -> None:
    async def endpoint(request: Request) -> Response:
        return await handler(api, request)

    endpoint.__doc__ = handler.__doc__
    app.add_api_route(
        path,
        endpoint,
        methods=[method],
        name=handler.__name__,
        operation_id=handler.__name__,
        response_model=None,
        responses=responses(),
        openapi_extra=extra,
    )


async def _render(request: Request, error: Exception) -> Response:
    known = error if isinstance(error, ApiError) else ApiError("internal")
    request.state.is_counted = known.is_engines
    return _rendered(request, known, known.headers)


async def _render_http(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = (error.headers if isinstance(error, HTTPException) else None) or {}
    known = ApiError.of_status(status)
    return _rendered(request, known, {**headers, **known.headers})


def _rendered(request: Request, error: ApiError, headers: Mapping[str, str]) -> Response:
    return JSONAnswer(shaped(error.body, error.status, request.url.path), error.status, headers)


async def _render_internal(request: Request, error: Exception) -> Response:
    return await _render(request, ApiError("internal"))


async def _nobody_reads(request: Request, error: Exception) -> Response:
    return Response(status_code=_CLIENT_GONE)
