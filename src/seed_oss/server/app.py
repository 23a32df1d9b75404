"""The application: every endpoint, and what becomes of errors."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from seed_oss.engine.client import EngineClient
from seed_oss.server.api import Api
from seed_oss.server.chat import chat_completions
from seed_oss.server.completions import completions
from seed_oss.server.embeddings import embeddings
from seed_oss.server.errors import ApiError, ClientGoneError
from seed_oss.server.models import get_model, list_models
from seed_oss.server.page_files import add_page
from seed_oss.server.scoring import classify, question_answering, score, token_classify
from seed_oss.server.served import ApiSettings, ServedModel
from seed_oss.server.streaming import JSONAnswer
from seed_oss.server.tokens import detokenize, tokenize

__all__ = ["ApiSettings", "ServedModel", "create_app"]

_Handler = Callable[[Api, Request], Awaitable[Response]]
_POSTS: dict[str, _Handler] = {
    "/v1/chat/completions": chat_completions,
    "/v1/completions": completions,
    "/v1/embeddings": embeddings,
    "/tokenize": tokenize,
    "/detokenize": detokenize,
    "/score": score,
    "/classify": classify,
    "/token_classify": token_classify,
    "/question_answering": question_answering,
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

    app = FastAPI(title="seed-oss", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.api = api
    _route(app, api, "GET", "/v1/models", list_models)
    _route(app, api, "GET", "/v1/models/{model_id:path}", get_model)
    for path, handler in _POSTS.items():
        _route(app, api, "POST", path, handler)
    add_page(app)
    app.add_exception_handler(ApiError, _render)
    app.add_exception_handler(ClientGoneError, _nobody_reads)
    app.add_exception_handler(HTTPException, _render_http)
    app.add_exception_handler(Exception, _render_internal)
    return app


def _route(app: FastAPI, api: Api, method: str, path: str, handler: _Handler, **more: Any) -> None:
    async def endpoint(request: Request) -> Response:
        return await handler(api, request)

    endpoint.__doc__ = handler.__doc__
    app.add_api_route(path, endpoint, methods=[method], name=handler.__name__, response_model=None, **more)


async def _render(request: Request, error: Exception) -> Response:
    known = error if isinstance(error, ApiError) else ApiError("internal")
    return JSONAnswer(known.body, known.status, known.headers)


async def _render_http(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = (error.headers if isinstance(error, HTTPException) else None) or {}
    known = ApiError.of_status(status)
    return JSONAnswer(known.body, known.status, {**headers, **known.headers})


async def _render_internal(request: Request, error: Exception) -> Response:
    return await _render(request, ApiError("internal"))


async def _nobody_reads(request: Request, error: Exception) -> Response:
    return Response(status_code=_CLIENT_GONE)
