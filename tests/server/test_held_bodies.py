"""The bodies of all connections together are bounded."""

from seed_oss.server.limits import TransportLimits
from tests.server.raw_http import run, serving
from tests.server.test_transport import post

LIMITS = TransportLimits(max_body_bytes=1000, max_bodies_bytes=1000)


def test_bodies_beyond_the_bound_are_refused_until_others_are_answered() -> None:
    async def scenario() -> None:
        async with serving(LIMITS) as served, await served.connect() as first:
            await first.send(post(600, "/hold", close=False) + b"x" * 600)
            await served.app.started.wait()
            refused = await served.ask(post(500) + b"x" * 401)
            assert (refused.status, refused.code, refused.headers["retry-after"]) == (503, "unavailable", "1")
            assert (await served.ask(post(400) + b"x" * 400)).status == 200
            served.app.release.set()
            assert (await first.answer()).status == 200
            assert (await served.ask(post(1000) + b"x" * 1000)).status == 200

    run(scenario())


def test_a_client_that_leaves_holds_nothing() -> None:
    async def scenario() -> None:
        async with serving(LIMITS) as served:
            async with await served.connect() as first:
                await first.send(post(900) + b"x" * 800)
                await served.app.started.wait()
            await served.app.left.wait()
            assert (await served.ask(post(1000) + b"x" * 1000)).status == 200

    run(scenario())
