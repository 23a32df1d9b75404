"""Who may ask: API keys, hosts and origins. Whatever is not open by its exact path needs a key, if there are any."""

import hashlib
import hmac
import ipaddress
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from seed_oss.errors import ConfigError, InputError, MissingFileError
from seed_oss.server.asgi import App, Receive, Scope, Send, header, respond_error, state_of

KEYS_VARIABLE = "SEED_OSS_API_KEY"
OPEN_PATHS = frozenset(("/", "/health", "/ready"))
MIN_KEY_CHARS = 16
MAX_KEY_CHARS = 512
MAX_KEYS = 1000
_LOOPBACK_NAMES = frozenset(("localhost", "127.0.0.1", "::1"))
_MAKE_ONE = 'make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"'


class ApiKeys:
    """Keys, known by keyed digests only.

    Args:
        keys: the keys.
        secret: of this process, or of the folder where cached prompts outlive it; digests and namespaces depend on it.

    Raises:
        ConfigError: none, too many, or one that is too short or too long or has other characters than ASCII's visible.
    """

    def __init__(self, keys: Iterable[str], secret: bytes) -> None:
        self._secret = secret
        self._digests = tuple(self._keyed(b"key", key) for key in _checked(tuple(keys)))

    def namespace(self, given: str) -> str | None:
        """Whose request it is, as a name that does not tell the key; None: no such key.

        Takes as long for a wrong key as for any right one.
        """
        digest = self._keyed(b"key", given[: MAX_KEY_CHARS + 1])
        is_known = False
        for known in self._digests:
            is_known |= hmac.compare_digest(known, digest)
        return self._keyed(b"namespace", given).hex()[:32] if is_known else None

    def _keyed(self, purpose: bytes, key: str) -> bytes:
        return hmac.digest(self._secret, purpose + b"\0" + key.encode("utf-8", "surrogatepass"), hashlib.sha256)


def _checked(keys: Sequence[str]) -> Sequence[str]:
    if not 0 < len(keys) <= MAX_KEYS:
        raise ConfigError(f"there are {len(keys)} API keys; allowed are 1 to {MAX_KEYS}; {_MAKE_ONE}")
    for number, key in enumerate(keys, 1):
        if not MIN_KEY_CHARS <= len(key) <= MAX_KEY_CHARS or not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError(
                f"API key {number} has {len(key)} characters; allowed are {MIN_KEY_CHARS} to {MAX_KEY_CHARS} visible "
                f"ones of ASCII; {_MAKE_ONE}"
            )
    return keys


def read_keys(file: Path | None, environment: Mapping[str, str]) -> tuple[str, ...]:
    """The keys of a file, one a line, and of the variable SEED_OSS_API_KEY, with commas between.

    Args:
        file: of the keys; empty lines and those that begin with '#' are passed over. None for no file.
        environment: of the process. In its CREDENTIALS_DIRECTORY, which systemd makes for one service, a file may have
            mode 0440: that is how the access list shows that lets the service's user read it.

    Raises:
        MissingFileError: the file is not there.
        ConfigError: the file has no keys, is not UTF-8, no regular file, or others than its owner may read it.
    """
    credentials = environment.get("CREDENTIALS_DIRECTORY")
    is_credential = file is not None and credentials is not None and file.parent == Path(credentials)
    keys = [] if file is None else _keys_in(file, 0o037 if is_credential else 0o077)
    keys += [part.strip() for part in environment.get(KEYS_VARIABLE, "").split(",") if part.strip()]
    return tuple(dict.fromkeys(keys))


def _keys_in(file: Path, forbidden: int) -> list[str]:
    try:
        with file.open("rb") as opened:
            _check_mode(file, os.fstat(opened.fileno()).st_mode, forbidden)
            text = opened.read(2**20).decode("utf-8")
    except FileNotFoundError:
        raise MissingFileError(f"{file} is not there; write API keys into it, one a line") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not UTF-8; write API keys into it, one a line") from None
    lines = [line.strip() for line in text.splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ConfigError(f"{file} has no API keys; {_MAKE_ONE}")
    return keys


def _check_mode(file: Path, mode: int, forbidden: int) -> None:
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{file} is no regular file; API keys are read from one, one a line")
    if os.name == "posix" and mode & forbidden:
        raise ConfigError(f"{file} has mode {mode & 0o777:04o}; others may not read API keys: chmod 600 {file}")


def is_loopback(host: str) -> bool:
    """Whether an address is reachable from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_address(host: str, *, has_keys: bool, allow_unauthenticated: bool) -> None:
    """Refuse to be open to others by oversight.

    Raises:
        ConfigError: an address that others can reach, without keys, and not said that this is meant.
    """
    if not (is_loopback(host) or has_keys or allow_unauthenticated):
        raise ConfigError(
            f"others can reach {host}, and there are no API keys; give --api-key-file or {KEYS_VARIABLE}, take "
            "--host 127.0.0.1, or say --allow-unauthenticated"
        )


def local_hosts(host: str, more: Iterable[str] = ()) -> frozenset[str] | None:
    """Names that requests without keys may use for this server; None: any.

    A page on the web can make a browser send requests to a local server under the page's own name (DNS rebinding); it
    cannot make it use another one.

    Args:
        host: the address that is listened on.
        more: further names.
    """
    names = frozenset(name.lower() for name in more)
    return _LOOPBACK_NAMES | names | {host.lower()} if names or is_loopback(host) else None


def check_origins(origins: Sequence[str]) -> None:
    """Origins for CORS are spelled out.

    Raises:
        InputError: one that is no origin, such as "*".
    """
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or f"{parts.scheme}://{parts.netloc}" != origin or "*" in origin:
            raise InputError(f"{origin!r:.80} is no origin; write it like https://chat.example.org, without a path")


class Gate:
    """ASGI middleware: lets in who may, and says as `request.state.namespace` whose a request is ("" without keys).

    Args:
        app: what is behind it.
        keys: None lets everybody in whose request is for one of `hosts` and of no other page than `origins`.
        hosts: see `local_hosts`.
        origins: of pages that may ask.
        open_paths: that anybody may read: the page's files, which a browser asks for without a key.
    """

    def __init__(
        self,
        app: App,
        keys: ApiKeys | None,
        hosts: frozenset[str] | None = None,
        origins: Sequence[str] = (),
        open_paths: frozenset[str] = OPEN_PATHS,
    ) -> None:
        self._app = app
        self._open_paths = open_paths
        self._keys = keys
        self._hosts = hosts
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        state = state_of(scope)
        state["namespace"] = ""
        if scope["path"] in self._open_paths and scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
        elif self._keys is None:
            await self._pass_local(scope, receive, send)
        else:
            await self._pass_known(self._keys, scope, receive, send)

    async def _pass_known(self, keys: ApiKeys, scope: Scope, receive: Receive, send: Send) -> None:
        found = [name for name in map(keys.namespace, _given_keys(scope)) if name is not None]
        if not found:
            message = "the API key is missing or wrong; send it as Authorization: Bearer, or as x-api-key"
            await respond_error(send, 401, message, [("www-authenticate", "Bearer")], path=scope["path"])
            return
        state_of(scope)["namespace"] = found[0]
        await self._app(scope, receive, send)

    async def _pass_local(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = _host_name(header(scope, b"host") or "")
        if self._hosts is not None and host not in self._hosts:
            await respond_error(send, 403, "this name is not the server's; see --allowed-host", path=scope["path"])
            return
        origin = header(scope, b"origin")
        if self._hosts is not None and origin is not None and not self._is_ours(origin):
            await respond_error(send, 403, "pages of this origin may not ask; see --cors-origin", path=scope["path"])
            return
        await self._app(scope, receive, send)

    def _is_ours(self, origin: str) -> bool:
        return origin in self._origins or (
            self._hosts is not None and _host_name(urlsplit(origin).netloc) in self._hosts
        )


def _given_keys(scope: Scope) -> list[str]:
    """At most two: of OpenAI's clients and of Anthropic's."""
    kind, _, bearer = (header(scope, b"authorization") or "").partition(" ")
    found = [bearer.strip()] if kind.lower() == "bearer" else []
    other = header(scope, b"x-api-key")
    return found if other is None else [*found, other.strip()]


def _host_name(netloc: str) -> str:
    """Of "name:port" or "[::1]:port", without the port."""
    if netloc.startswith("["):
        return netloc[1:].partition("]")[0].lower()
    return netloc.partition(":")[0].lower()
