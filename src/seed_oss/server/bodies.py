"""The one reader of bodies: strict JSON, then typed fields. What is not understood is refused by name."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from starlette.requests import Request

from seed_oss.errors import CheckpointError
from seed_oss.files import parse_json
from seed_oss.server.errors import ApiError, without_quotes
from seed_oss.server.served import MAX_BODY_BYTES, MAX_BODY_VALUES

_NAME = re.compile(r"[\w.\-]{1,64}")
_BUDGETS = frozenset(
    ("thinking_budget", "thinking_token_budget", "thinking", "enable_thinking", "reasoning_effort", "reasoning")
)


class Body(BaseModel):
    """Fields of a request. Types are strict: no number for text, no text for a number."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)
    refused: ClassVar[dict[str, str]] = {}
    """Fields that clients send and that could not be obeyed, with the remedy."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        """Null is the same as left out, also in a field that is not known."""
        if not isinstance(value, dict):
            return value
        fields = cast("dict[str, Any]", value)
        return {name: one for name, one in fields.items() if one is not None or name in cls.model_fields}


class Ignored(Body):
    """Fields of OpenAI's API that mean nothing here: they are checked, and then passed over."""

    user: Annotated[str | None, Field(max_length=1024)] = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: Annotated[str | None, Field(max_length=64)] = None
    safety_identifier: Annotated[str | None, Field(max_length=1024)] = None
    prompt_cache_key: Annotated[str | None, Field(max_length=1024)] = None
    prompt_cache_retention: Annotated[str | None, Field(max_length=64)] = None


_Model = TypeVar("_Model", bound=Body)


async def read_raw(request: Request) -> bytes:
    """The bytes of a body.

    Raises:
        ApiError: another type of content, charset or encoding than JSON in UTF-8, or too large.
    """
    _check_headers(request.headers)
    return await _read(request)


def parsed(raw: bytes, max_depth: int) -> dict[str, Any]:
    """The JSON object in a body.

    Args:
        raw: the body.
        max_depth: most levels of its lists and objects.

    Raises:
        ApiError: too deep, no strict JSON, or no object.
    """
    value = _parsed(raw, max_depth)
    if not isinstance(value, dict):
        raise ApiError("invalid", "the body must be a JSON object with the parameters by name")
    return cast("dict[str, Any]", value)


def checked(body: dict[str, Any], model: type[_Model]) -> _Model:
    """A body as typed fields.

    Raises:
        ApiError: an unknown field, a wrong type or a value out of range; `param` names the field.
    """
    for name, remedy in model.refused.items():
        if body.get(name) is not None:
            raise ApiError("invalid", f"{name} is not supported; {remedy}", param=name)
    given = {name: value for name, value in body.items() if name not in model.refused}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=True, include_input=False)
        raise _refusal(_most_telling(found), given) from None


def unwrapped(body: dict[str, Any]) -> dict[str, Any]:
    """A body with what stands in a literal `extra_body` moved to the top, but for budgets, which are looked up there.

    Raises:
        ApiError: it is no object, or says something else than the top.
    """
    extra = body.get("extra_body")
    if extra is None:
        return body
    if not isinstance(extra, dict):
        raise ApiError("invalid", "extra_body must be an object", param="extra_body")
    inner = {name: value for name, value in cast("dict[str, Any]", extra).items() if name not in _BUDGETS}
    for name, value in inner.items():
        if name in body and body[name] != value:
            raise ApiError(
                "invalid", f"{shown_name(name)} and the same in extra_body differ; give one of them", param="extra_body"
            )
    return {**inner, **{name: value for name, value in body.items() if name != "extra_body"}}


def _check_headers(headers: Mapping[str, str]) -> None:
    """Refuse a body that its headers call anything but plain JSON in UTF-8."""
    kind, *parameters = headers.get("content-type", "").lower().split(";")
    if kind.strip() != "application/json":
        raise ApiError("media", "the body must be JSON, with the header Content-Type: application/json")
    named = [value.strip(" \"'") for name, _, value in (one.partition("=") for one in parameters) if _is_charset(name)]
    if any(one not in ("utf-8", "utf8") for one in named):
        raise ApiError("media", "the body must be in UTF-8; leave the charset of Content-Type out")
    if headers.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
        raise ApiError("media", "the body must not be compressed; leave the header Content-Encoding out")


def _is_charset(name: str) -> bool:
    return name.strip() == "charset"


async def _read(request: Request) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise ApiError("too_large", f"the body has more than {MAX_BODY_BYTES} bytes, the limit; send less")
        parts.append(part)
    return b"".join(parts)


def _parsed(raw: bytes, max_depth: int) -> Any:
    bounds = {"max_bytes": MAX_BODY_BYTES, "max_values": MAX_BODY_VALUES, "max_depth": max_depth}
    try:
        return parse_json(raw, source="the body", **bounds)
    except CheckpointError as error:
        raise ApiError("invalid", without_quotes(str(error))) from None


def _most_telling(errors: list[ErrorDetails]) -> ErrorDetails:
    """The first error; of a field that may be of several types, the one of the type that was given."""
    same_field = [one for one in errors if one["loc"][:1] == errors[0]["loc"][:1]]
    return next((one for one in same_field if not one["type"].endswith("_type")), errors[0])


def _refusal(error: ErrorDetails, body: Any) -> ApiError:
    param = _place(error["loc"], body, is_missing=error["type"] == "missing")
    if error["type"] == "extra_forbidden":
        return ApiError("invalid", f"{param} is not a parameter of this endpoint; leave it out", param=param)
    if error["type"] == "missing":
        return ApiError("invalid", f"{param} is missing; it is required", param=param)
    said = error["msg"].removeprefix("Value error, ")
    return ApiError("invalid", f"{param}: {said[:1].lower()}{said[1:]}", param=param)


def _place(path: tuple[int | str, ...], body: Any, *, is_missing: bool) -> str:
    """A field's place, without the names of types that pydantic puts in between."""
    place, value = "", body
    for step in path:
        if isinstance(step, int) and isinstance(value, list):
            place, value = f"{place}[{step}]", _at(cast("list[Any]", value), step)
        elif isinstance(step, str) and isinstance(value, dict) and (step in value or (is_missing and step == path[-1])):
            place = f"{place}.{shown_name(step)}" if place else shown_name(step)
            value = cast("dict[str, Any]", value).get(step)
    return place


def _at(values: list[Any], index: int) -> Any:
    return values[index] if index < len(values) else None


def shown_name(name: str) -> str:
    """The name of a field, as messages may have it."""
    return name if _NAME.fullmatch(name) else "a field with an odd name"
