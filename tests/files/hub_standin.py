"""A small model hub on 127.0.0.1: real HTTP for tests of downloading, with the faults that downloads meet.

It answers what huggingface_hub asks for: model info with the commit, the list of files, and the files themselves with
commit and ETag headers and byte ranges. It keeps a log of requests, and can cut connections.
"""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """Commits (40 hexadecimal digits -> path -> content), branches and tags, and who may read."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    gated: bool = False

    def push(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add a commit with exactly these files and point a branch to it."""
        listing = "".join(f"{path}:{hashlib.sha1(data).hexdigest()}" for path, data in sorted(files.items()))
        commit = hashlib.sha1(listing.encode()).hexdigest()
        self.commits[commit] = files
        self.names[branch] = commit
        return commit

    def find(self, revision: str) -> str | None:
        """The commit that a branch, tag or commit name stands for."""
        return revision if revision in self.commits else self.names.get(revision)


@dataclass(frozen=True)
class Request:
    """One request as it came in."""

    method: str
    path: str
    range: str | None
    token: str | None


class HubStandin:
    """The server; use it as a context manager."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.log: list[Request] = []
        self.cuts: dict[str, list[int]] = {}  # file name -> for each coming download, cut after so many bytes
        self.broken: dict[str, int] = {}  # file name -> status code with which its download fails
        self.down = 0  # status code with which everything fails
        self.login_page = False  # answer everything as a hotel network does
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def repository(self, repo_id: str, **fields: Any) -> Repository:
        """Make a repository."""
        self.repositories[repo_id] = Repository(**fields)
        return self.repositories[repo_id]

    def downloads(self) -> list[str]:
        """The files whose content was asked for, in order."""
        asked = [request.path for request in self.log if request.method == "GET"]
        return [path.rsplit("/", 1)[-1] for path in asked if "/resolve/" in path]

    def __enter__(self) -> "HubStandin":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop answering: from now on the endpoint cannot be reached."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: HubStandin
    protocol_version = "HTTP/1.1"
    timeout = 5

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        return

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.hub.log.append(Request(self.command, path, self.headers.get("Range"), token))
        if self.hub.login_page:
            self._send(200, b"<html>please log in</html>", {"Content-Type": "text/html"})
        elif self.hub.down:
            self._send(self.hub.down, b"")
        elif path.startswith("/api/models/"):
            self._answer_api(path.removeprefix("/api/models/"), token)
        elif "/resolve/" in path:
            repo_id, _, rest = path.strip("/").partition("/resolve/")
            revision, _, name = rest.partition("/")
            self._answer_file(repo_id, revision, name, token)
        else:
            self._send(404, b"")

    def _answer_api(self, path: str, token: str | None) -> None:
        parts = path.split("/")
        repository = self._repository("/".join(parts[:2]), token)
        if repository is None:
            return
        revision = "/".join(parts[3:]) if len(parts) > 3 else "main"
        commit = repository.find(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound")
        elif len(parts) > 2 and parts[2] == "tree":
            self._send_json([_tree_entry(name, data) for name, data in repository.commits[commit].items()])
        else:
            siblings = [{"rfilename": name} for name in repository.commits[commit]]
            self._send_json({"id": "/".join(parts[:2]), "sha": commit, "siblings": siblings})

    def _answer_file(self, repo_id: str, revision: str, name: str, token: str | None) -> None:
        repository = self._repository(repo_id, token)
        if repository is None:
            return
        commit = repository.find(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound")
        elif name not in repository.commits[commit]:
            self._refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
        else:
            self._send_file(name, repository.commits[commit][name], commit)

    def _repository(self, repo_id: str, token: str | None) -> Repository | None:
        repository = self.hub.repositories.get(repo_id)
        if repository is None:
            self._refuse(401 if token is None else 404, "RepoNotFound")
        elif repository.token is not None and token != repository.token:
            self._refuse(401, "GatedRepo" if repository.gated else "RepoNotFound")
        else:
            return repository
        return None

    def _send_file(self, name: str, data: bytes, commit: str) -> None:
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        status = 206 if "Range" in self.headers else 200
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        cuts = self.hub.cuts.get(name)
        if self.command == "GET" and name in self.hub.broken:
            self._send(self.hub.broken[name], b"")
        elif self.command == "GET" and cuts:
            self._send(status, data[start:], headers, cut=cuts.pop(0))
        else:
            self._send(status, data[start:], headers)

    def _send_json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code, **(headers or {})})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Connection": "close", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        if self.command != "HEAD":
            self.wfile.write(body if cut is None else body[:cut])


def _handler(hub: HubStandin) -> type[BaseHTTPRequestHandler]:
    return type("_BoundHandler", (_Handler,), {"hub": hub})


def _tree_entry(name: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
