"""The files of the chat page, as the server gives them."""

import re
from importlib.resources import files

import httpx
import pytest

from seed_oss.server.page_files import read_page
from tests.server.api_calls import engine, http, run

PATHS = sorted(read_page())


def get(path: str, method: str = "GET", **headers: str) -> httpx.Response:
    """One request for a file."""

    async def work() -> httpx.Response:
        async with http(engine()) as caller:
            return await caller.request(method, path, headers=headers)

    return run(work())


def test_the_page_is_at_the_root() -> None:
    answer = get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "<title>seed-oss</title>" in answer.text


@pytest.mark.parametrize("path", PATHS)
def test_every_file_is_locked_down(path: str) -> None:
    headers = get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self' data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_a_file_that_did_not_change_is_not_sent_again() -> None:
    first = get("/page/main.js")
    assert first.headers["cache-control"] == "no-cache"
    for tags in (first.headers["etag"], f'"other", W/{first.headers["etag"]}', "*"):
        again = get("/page/main.js", **{"if-none-match": tags})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    assert get("/page/main.js", **{"if-none-match": '"other"'}).status_code == 200


def test_head_says_how_long_a_file_is() -> None:
    answer = get("/", "HEAD")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) == len(get("/").content)


@pytest.mark.parametrize(
    "path", ["/page", "/page/", "/page/index.html", "/page/../app.py", "/page/%2e%2e/app.py", "/page/other.js"]
)
def test_nothing_else_is_served(path: str) -> None:
    assert get(path).status_code == 404


def test_the_page_is_no_part_of_the_api() -> None:
    assert not [path for path in get("/openapi.json").json()["paths"] if path == "/" or path.startswith("/page")]


def test_nothing_comes_from_elsewhere() -> None:
    html = get("/").text
    assert re.findall(r'(?:src|href)="(?!page/|#|data:image/svg)([^"]*)"', html) == []
    for path, file in read_page().items():
        assert b"@import" not in file.body, path
        assert b"url(" not in file.body, path


def test_no_script_reads_markup() -> None:
    for one in files("seed_oss.server").joinpath("page").iterdir():
        text = one.read_text(encoding="utf-8")
        for name in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "DOMParser",
            "eval(",
            "Function(",
        ):
            assert name not in text, (one.name, name)


def test_the_modules_are_small() -> None:
    lengths = {path: file.body.count(b"\n") for path, file in read_page().items() if path.endswith(".js")}
    assert {path: length for path, length in lengths.items() if length > 200} == {}
