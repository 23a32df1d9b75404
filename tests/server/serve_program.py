"""A server over a scripted engine, as a program: `python -m tests.server.serve_program ENGINE [SETTING=JSON ...]`."""

import json
import sys
from typing import Any

from seed_oss.engine.client import EngineClient
from seed_oss.engine.messages import Ended, Submit, Tokens
from seed_oss.engine.spec import EngineSpec
from seed_oss.server.serve import serve
from seed_oss.server.settings import ServeSettings
from tests.engine.processes import scripted


class TinyApi:
    """POST /generate/N/HOW: N tokens of a scripted engine, one a line, and how it ended."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """An ASGI application."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        _, _, number, how = scope["path"].split("/")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async with await self._client.submit(Submit("r", (int(number),), namespace=how)) as stream:
            async for event in stream:
                if isinstance(event, Tokens | Ended):
                    told = event.token_ids if isinstance(event, Tokens) else [event.reason, event.kind]
                    line = json.dumps(told).encode() + b"\n"
                    await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _lifespan(receive: Any, send: Any) -> None:
    while (message := await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": f"{message['type']}.complete"})


def main(engine: str, *settings: str) -> int:
    """Serve on a free port."""
    fields = {name: json.loads(value) for name, _, value in (one.partition("=") for one in settings)}
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return serve(
        ServeSettings(EngineSpec(engine), **{"port": 0, **fields}),
        command=scripted(engine),
        make_app=lambda client, _: TinyApi(client),
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
