"""Bounds of what one request may ask for. They can be set lower than what ships, not higher: the engine has its own."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self, cast

from seed_oss.chat.schema_checks import MAX_SCHEMA_BYTES, MAX_SCHEMA_DEPTH
from seed_oss.chat.tool_choice import MAX_TOOLS
from seed_oss.config.sampling import MAX_CHOICES, MAX_LOGPROBS, MAX_STOP_CHARS, MAX_STOPS
from seed_oss.errors import ConfigError
from seed_oss.files.strict_json import MAX_DEPTH
from seed_oss.server.errors import ApiError
from seed_oss.server.limits import MAX_CHOICES_OF_ALL, MAX_INPUTS, MAX_MESSAGES, MAX_PROMPTS

MAX_BIASES = 300


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Bounds of a body; past one there is a 400 that names the parameter.

    Args:
        n: answers to each prompt.
        prompts: of /v1/completions.
        answers: prompts times `n`.
        inputs: of embeddings, scores and classes.
        messages: of a conversation.
        stop: stop strings.
        stop_chars: characters of each.
        logit_bias: entries.
        logprobs: probable tokens beside each.
        tools: of a conversation.
        schema_bytes: of the JSON schema of an answer.
        schema_depth: levels of the JSON schema of an answer, or of a tool's parameters.
        json_depth: levels of lists and objects in a body.

    Raises:
        ConfigError: a value below 0 or above what ships.
    """

    n: int = MAX_CHOICES
    prompts: int = MAX_PROMPTS
    answers: int = MAX_CHOICES_OF_ALL
    inputs: int = MAX_INPUTS
    messages: int = MAX_MESSAGES
    stop: int = MAX_STOPS
    stop_chars: int = MAX_STOP_CHARS
    logit_bias: int = MAX_BIASES
    logprobs: int = MAX_LOGPROBS
    tools: int = MAX_TOOLS
    schema_bytes: int = MAX_SCHEMA_BYTES
    schema_depth: int = MAX_SCHEMA_DEPTH
    json_depth: int = MAX_DEPTH

    def __post_init__(self) -> None:
        """Check."""
        for one in fields(self):
            value, most = getattr(self, one.name), cast("int", one.default)
            if not 0 <= value <= most:
                raise ConfigError(f"the limit {one.name} is {value}; it must be from 0 to {most}")

    @classmethod
    def of(cls, given: Mapping[str, int]) -> Self:
        """Limits by name; those that are not named stay as they ship.

        Raises:
            ConfigError: there is no such limit, or a value is out of range.
        """
        known = [one.name for one in fields(cls)]
        unknown = next((name for name in given if name not in known), None)
        if unknown is not None:
            raise ConfigError(f"{unknown!r:.40} is no limit of a request; there are {', '.join(known)}")
        return cls(**given)

    def check(self, body: Mapping[str, Any]) -> None:
        """Refuse a body that asks for more; its types were checked before. Depths are checked where they are read.

        Raises:
            ApiError: it does.
        """
        shipped = RequestLimits()
        if self == shipped:
            return  # the types of the fields have these bounds
        for param, (found, limit) in self._counted(body).items():
            most = getattr(self, limit)
            if found > most != getattr(shipped, limit):
                raise ApiError("invalid", f"{param} comes to {found}; this server allows {most}", param=param)

    def _counted(self, body: Mapping[str, Any]) -> dict[str, tuple[int, str]]:
        """What parameters come to, and the limit of each."""
        num_prompts, num = _length(body.get("prompt")), _number(body.get("n"), 1)
        found = {name: (_length(body.get(name)), name) for name in ("messages", "logit_bias", "tools")}
        found |= {name: (_number(body.get(name), 0), "logprobs") for name in ("logprobs", "top_logprobs")}
        for name in ("stop", "stop_sequences"):
            strings = _strings(body.get(name))
            found[name] = (len(strings), "stop")
            if max(map(len, strings), default=0) > self.stop_chars:
                found[name] = (max(map(len, strings)), "stop_chars")
        given: Any = body.get("input")
        items = "messages" if isinstance(given, list) and given and isinstance(given[0], dict) else "inputs"
        found |= {"input": (_length(given), items), "prompt": (num_prompts, "prompts")}
        return {**found, "n": (num, "n") if num > self.n else (max(1, num_prompts) * num, "answers"), **_schema(body)}


def _schema(body: Mapping[str, Any]) -> dict[str, tuple[int, str]]:
    """The sizes of forms, in whichever field they stand."""
    text, output = (cast("Mapping[str, Any]", body.get(name) or {}) for name in ("text", "output_config"))
    forms = {"response_format": body.get("response_format"), "output_format": body.get("output_format")}
    forms |= {"text.format": text.get("format"), "output_config.format": output.get("format")}
    return {name: (_num_bytes(form), "schema_bytes") for name, form in forms.items() if form}


def _num_bytes(form: Mapping[str, Any]) -> int:
    schema = cast("Mapping[str, Any]", form.get("json_schema") or form).get("schema")
    return len(json.dumps(schema, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"))


def _length(value: Any) -> int:
    """Of a list of texts, lists or objects, or an object; a text or token ids are one."""
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return 1 if items and isinstance(items[0], int) else len(items)
    return len(cast("dict[str, Any]", value)) if isinstance(value, dict) else int(value is not None)


def _strings(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else cast("list[str]", value or [])


def _number(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise
