"""The form that an answer must have: a JSON schema, a regular expression, or a grammar."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from seed_oss.chat.schema_checks import MAX_SCHEMA_DEPTH, CheckedSchema, check_schema
from seed_oss.errors import InputError

MAX_REGEX_LEN = 2048
MAX_LARK_BYTES = 16 * 1024
MAX_LARK_RULES = 1000


@dataclass(frozen=True)
class OutputFormat:
    """The form of an answer; make one with `json_schema`, `json_object`, `regex`, `lark` or `of`.

    Attributes:
        kind: what `source` is.
        source: the JSON schema as text, the regular expression, or the grammar.
        place: what it is called in messages.
        checked: the JSON schema.
    """

    kind: Literal["json_schema", "regex", "lark"]
    source: str
    place: str
    checked: CheckedSchema | None = None

    @classmethod
    def json_schema(cls, schema: Any, place: str = "schema", max_depth: int = MAX_SCHEMA_DEPTH) -> "OutputFormat":
        """JSON that is valid by a schema.

        Args:
            schema: a JSON schema (draft 2020-12). Properties come in the order in which it lists them.
            place: what it is called in messages.
            max_depth: most levels of it, 32 at most.

        Raises:
            InputError: see `check_schema`.
        """
        checked = check_schema(schema, place, max_depth)
        return cls("json_schema", checked.text, place, checked)

    @classmethod
    def json_object(cls) -> "OutputFormat":
        """Any JSON object."""
        return cls.json_schema({"type": "object"}, "response_format")

    @classmethod
    def regex(cls, pattern: str) -> "OutputFormat":
        """Text that matches a regular expression from start to end.

        Args:
            pattern: a regular expression in the syntax of Rust's regex crate, without lookaround and anchors.

        Raises:
            InputError: it is not text, or over 2,048 characters.
        """
        _check_text(pattern, "regex", MAX_REGEX_LEN)
        return cls("regex", pattern, "regex")

    @classmethod
    def lark(cls, grammar: str) -> "OutputFormat":
        """Text of a context-free grammar.

        Args:
            grammar: a grammar in llguidance's variant of Lark, whose first rule is `start`. It may hold neither `%json`
                nor `%llguidance`.

        Raises:
            InputError: it is not text, over 16 KiB or 1,000 rules, or holds one of these.
        """
        _check_text(grammar, "grammar", MAX_LARK_BYTES)
        if grammar.count(":") > MAX_LARK_RULES:
            raise InputError(f"grammar has {grammar.count(':')} colons; at most {MAX_LARK_RULES} rules are allowed")
        if "%json" in grammar:
            raise InputError("grammar holds %json, whose schema would go unchecked; give the schema as a JSON schema")
        if "%llguidance" in grammar:
            raise InputError("grammar holds %llguidance, whose settings are made here; leave that line out")
        return cls("lark", grammar, "grammar")

    @classmethod
    def of(cls, response_format: Any, max_schema_depth: int = MAX_SCHEMA_DEPTH) -> "OutputFormat | None":
        """Read `response_format` as OpenAI clients send it.

        Args:
            response_format: None, `{"type": "text"}`, `{"type": "json_object"}`, `{"type": "json_schema",
                "json_schema": {"name": ..., "schema": ...}}`, or an OutputFormat. A schema is always kept to, strict or
                not.
            max_schema_depth: most levels of a schema, 32 at most.

        Returns:
            None for free text.

        Raises:
            InputError: anything else.
        """
        if response_format is None or isinstance(response_format, OutputFormat):
            return response_format
        given = cast("Mapping[str, Any]", response_format if isinstance(response_format, Mapping) else {})
        kind = given.get("type")
        if kind == "text":
            return None
        if kind == "json_object":
            return cls.json_object()
        if kind != "json_schema":
            shown = repr(kind) if given else repr(cast("Any", response_format))
            raise InputError(
                f"response_format.type is {shown[:80]}; it must be 'text', 'json_object' or 'json_schema' (a bare JSON "
                "schema goes through OutputFormat.json_schema)"
            )
        inner = given.get("json_schema")
        if not isinstance(inner, Mapping) or "schema" not in inner:
            raise InputError("response_format.json_schema has no schema; give one, or use 'json_object'")
        schema = cast("Mapping[str, Any]", inner)["schema"]
        return cls.json_schema(schema, "response_format.json_schema.schema", max_schema_depth)


def _check_text(value: Any, place: str, limit: int) -> None:
    if not isinstance(value, str):
        raise InputError(f"{place} is a {type(value).__name__}; it must be text")
    try:
        num_bytes = len(value.encode("utf-8"))
    except UnicodeEncodeError:
        raise InputError(f"{place} holds a lone surrogate, half of a character") from None
    if not value or num_bytes > limit:
        raise InputError(f"{place} has {num_bytes} bytes; allowed are 1 to {limit}")
