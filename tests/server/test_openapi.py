"""The OpenAPI document describes what is there."""

from typing import Any

from tests.server.api_calls import engine, http, run


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
        assert {"200", "400", "401", "404", "413", "429", "503"} <= operation["responses"].keys()


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
