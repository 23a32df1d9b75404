"""The chat page: files of the package, read once, under exact paths, with headers that let the page do nothing else."""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.resources import files

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from seed_oss.errors import MissingFileError

INDEX = "index.html"
FOLDER = "page"
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self' data:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
_HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {sources}" for name, sources in _POLICY.items()),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked for again each time, and answered with 304: an update shows at once
}


@dataclass(frozen=True)
class PageFile:
    """A file of the page.

    Attributes:
        body: its bytes.
        media_type: for Content-Type.
        etag: of the body, in quotes.
    """

    body: bytes
    media_type: str
    etag: str


def read_page() -> dict[str, PageFile]:
    """The files of the page by their paths on the server: "/" and "/page/NAME".

    Raises:
        MissingFileError: the package was installed without them.
    """
    folder = files("seed_oss.server").joinpath(FOLDER)
    found = {one.name: one.read_bytes() for one in folder.iterdir()} if folder.is_dir() else {}
    if INDEX not in found:
        raise MissingFileError(f"the package has no {FOLDER}/{INDEX}; install seed-oss again")
    return {_path_of(name): _page_file(name, body) for name, body in sorted(found.items()) if _suffix(name)}


def add_page(app: FastAPI) -> None:
    """Serve the page.

    Raises:
        MissingFileError: the package was installed without it.
    """
    for path, file in read_page().items():
        app.add_api_route(path, _endpoint(file), methods=["GET", "HEAD"], include_in_schema=False, response_model=None)


def _path_of(name: str) -> str:
    return "/" if name == INDEX else f"/{FOLDER}/{name}"


def _suffix(name: str) -> str:
    """Of a file that belongs to the page; "" for anything else, such as what an editor left there."""
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix}" if stem and dot and f".{suffix}" in _MEDIA_TYPES else ""


def _page_file(name: str, body: bytes) -> PageFile:
    return PageFile(body, _MEDIA_TYPES[_suffix(name)], f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def _endpoint(file: PageFile) -> Callable[[Request], Awaitable[Response]]:
    headers = {**_HEADERS, "ETag": file.etag}

    async def page_file(request: Request) -> Response:
        if _is_known(request.headers.get("if-none-match", ""), file.etag):
            return Response(status_code=304, headers=headers)
        return Response(file.body, headers=headers, media_type=file.media_type)

    return page_file


def _is_known(given: str, etag: str) -> bool:
    """Whether If-None-Match names the file as it is; what stands between may have weakened the tag."""
    tags = [tag.strip().removeprefix("W/") for tag in given.split(",")]
    return etag in tags or "*" in tags
