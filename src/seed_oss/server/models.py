"""GET /v1/models and /v1/models/{id}."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from seed_oss.server.api import Api
from seed_oss.server.errors import ApiError
from seed_oss.server.streaming import JSONAnswer


async def list_models(api: Api, request: Request) -> Response:
    """The names that requests may give as `model`."""
    return JSONAnswer({"object": "list", "data": [_model(api, name) for name in api.model_names()]})


async def get_model(api: Api, request: Request) -> Response:
    """One of them."""
    name = str(request.path_params["model_id"])
    if name not in api.model_names():
        raise ApiError("model_not_found", "there is no such model; GET /v1/models lists all", param="model")
    return JSONAnswer(_model(api, name))


def _model(api: Api, name: str) -> dict[str, Any]:
    parent = None if name in api.served.names else api.served.name
    return {
        "id": name,
        "object": "model",
        "created": api.served.created,
        "owned_by": "seed-oss",
        "parent": parent,
        "max_model_len": api.max_len,
    }
