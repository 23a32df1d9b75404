"""The OpenAPI document describes what is there."""

from pathlib import Path
from typing import Any

from seed_oss.server.errors import _CATALOGUE
from seed_oss.server.framing import _PHRASES
from tests.server.api_calls import engine, http, run

ROOT = Path(__file__).parents[2]
ERRORS = {str(status) for status in {*(one[0] for one in _CATALOGUE.values()), *_PHRASES}}


def test_every_error_that_there_is_stands_in_the_manual() -> None:
    manual = (ROOT / "docs" / "server-api.md").read_text()
    rows = manual.partition("## Errors")[2].partition("## ")[0].splitlines()
    told = {word.strip() for row in rows if row.startswith("| ") for word in row.split("|")[1].split(",")}
    assert ERRORS == told - {"status", "---"}


def document() -> Any:
    async def work() -> Any:
        async with http(engine()) as caller:
            return (await caller.get("/openapi.json")).json()

    return run(work())


def test_every_body_is_described() -> None:
    found = document()
    posts = {path: item["post"] for path, item in found["paths"].items() if "post" in item}
    assert len(posts) >= 9
    for path, operation in posts.items():
        reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        assert reference.rpartition("/")[2] in found["components"]["schemas"], path
        assert {"200", *ERRORS} <= operation["responses"].keys()


def test_references_lead_somewhere() -> None:
    found = document()
    text = str(found)
    names = {part.partition("'")[0] for part in text.split("#/components/schemas/")[1:]}
    assert names <= found["components"]["schemas"].keys()


def test_the_documents_bounds_are_the_real_ones() -> None:
    chat = document()["components"]["schemas"]["ChatRequest"]
    assert chat["additionalProperties"] is False
    assert chat["required"] == ["model", "messages"]
    (number,) = [one for one in chat["properties"]["n"]["anyOf"] if one["type"] != "null"]
    assert (number["minimum"], number["maximum"]) == (1, 16)
