"""The OpenAPI document: bodies, statuses and the shape of errors."""

from typing import Any

from fastapi import FastAPI

from seed_oss.server.bodies import Body

_REFERENCE = "#/components/schemas/{model}"
_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_STATUSES = {
    400: "The request is malformed, or asks for what is not allowed; `param` names the parameter.",
    401: "The API key is missing or wrong.",
    403: "This host or origin may not ask without a key.",
    404: "There is no such model, task or stored object.",
    405: "The endpoint takes another method.",
    408: "The headers or the body came too slowly.",
    413: "The body is too large.",
    414: "The request line is too long.",
    415: "The body is no JSON in UTF-8, or it is compressed.",
    429: "Too much is waiting; see Retry-After.",
    431: "The headers are too many or too long.",
    500: "The server failed.",
    501: "The transfer encoding is not known.",
    503: "The engine is not there, or there are too many connections or bodies; see Retry-After.",
    505: "The version of HTTP is not spoken.",
}


class DescribedApp(FastAPI):
    """An application whose document knows the bodies that are read by hand."""

    def openapi(self) -> dict[str, Any]:
        """The document."""
        if self.openapi_schema is None:
            document = super().openapi()
            schemas: dict[str, Any] = document.setdefault("components", {}).setdefault("schemas", {})
            schemas["Error"] = _ERROR
            for model in self.state.bodies:
                schemas |= body_schemas(model)
        return super().openapi()


def body_schemas(model: type[Body]) -> dict[str, Any]:
    """The schema of a body, and those that it refers to, by name."""
    schema = model.model_json_schema(ref_template=_REFERENCE)
    inner: dict[str, Any] = schema.pop("$defs", {})
    return {model.__name__: schema, **inner}


def responses(content_type: str = "application/json") -> dict[int | str, dict[str, Any]]:
    """Every status of an endpoint."""
    errors = {"application/json": {"schema": {"$ref": _REFERENCE.format(model="Error")}}}
    return {
        200: {"description": "The answer.", "content": {content_type: {"schema": {"type": "object"}}}},
        **{status: {"description": text, "content": errors} for status, text in _STATUSES.items()},
    }


def request_body(model: type[Body]) -> dict[str, Any]:
    """What an endpoint takes."""
    schema = {"$ref": _REFERENCE.format(model=model.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def path_parameters(*names: str) -> dict[str, Any]:
    """The parts of a path that are given."""
    schema = {"type": "string", "minLength": 1}
    return {"parameters": [{"name": name, "in": "path", "required": True, "schema": schema} for name in names]}
