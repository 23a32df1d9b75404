"""A conversation that is being answered: what the protocols for chats have in common."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from seed_oss.config.sampling import SamplingParams
from seed_oss.engine.conversation_memory import owner_of
from seed_oss.engine.messages import Ended, Started, Tokens
from seed_oss.server.api import Api, namespace
from seed_oss.server.errors import ApiError
from seed_oss.server.runs import RunEvent, Runs
from seed_oss.server.streaming import unless_gone
from seed_oss.server.turn import AnswerReader, Conversation, Step, Turn, num_renderings, prepare
from seed_oss.server.usage import Usage, turns_shown


@dataclass(frozen=True)
class Begun:
    """A conversation in the engine's hands.

    Attributes:
        turn: the prompt.
        runs: the request; whoever has it must close it.
        first: its first event, if that has come already.
    """

    turn: Turn
    runs: Runs
    first: RunEvent | None


async def begin(
    api: Api,
    request: Request,
    wanted: Conversation,
    params: SamplingParams,
    *,
    param: str = "messages",
    priority: int | None = None,
    adapter: str | None = None,
) -> Begun:
    """Make the prompt, check its length, and hand it in.

    Args:
        api: the common ground.
        request: it is done for.
        wanted: the conversation.
        params: how it is continued.
        param: the field that the messages came from.
        priority, adapter: see `Submit`.

    Raises:
        ApiError: it cannot be answered.
        ClientGoneError: nobody waits any more.
    """
    owner = owner_of(namespace(request), adapter)
    num = await api.made(request, lambda: api.check_chars([wanted.messages, wanted.tools], param))
    await unless_gone(request, api.check_long([wanted.messages, wanted.tools], param))
    num_read = num * num_renderings(wanted)

    def make() -> Turn:
        return prepare(api.texts, api.memory, owner, wanted, params, api.settings.limits.schema_depth)

    turn = await unless_gone(request, api.work(make, num_read))
    api.check_length(len(turn.prompt_ids), params.max_tokens, param)
    submit = api.submit(request, turn.prompt_ids, params, form=turn.form, priority=priority, adapter=adapter)
    runs, first = await api.start(request, [submit])
    return Begun(turn, runs, first)


class Talk:
    """One answer, while it comes; for protocols that have no choices.

    Args:
        api: the common ground.
        request: it is done for.
        begun: the conversation.
        params: how it is continued.

    Attributes:
        usage: tokens, once it has ended.
        ended: the engine's last event, once it has come.
    """

    def __init__(self, api: Api, request: Request, begun: Begun, params: SamplingParams) -> None:
        self._api, self._request, self._begun, self._params = api, request, begun, params
        self._reader: AnswerReader | None = None
        self.usage = Usage()
        self.ended: Ended | None = None

    async def steps(self) -> AsyncGenerator[Step, None]:
        """What has become certain, step by step.

        Raises:
            ApiError: the answer ended for a fault.
        """
        async for event in self._begun.runs.after(self._begun.first):
            yield self._take(event)
        if self.ended is None:
            raise ApiError("internal")
        self.usage.tell(self._request)

    @property
    def turns(self) -> dict[str, Any]:
        """See `turns_shown`."""
        return turns_shown(self._begun.turn.uses)

    @property
    def finish_reason(self) -> str:
        """OpenAI's word for why the answer ended."""
        if self.ended is None or self._reader is None:
            raise ApiError("internal")
        return self._reader.finish_reason(self.ended.reason)

    @property
    def stop(self) -> str | None:
        """The stop string that ended the answer."""
        found = None if self.ended is None or self._reader is None else self._reader.stop_of(self.ended)
        return found if isinstance(found, str) else None

    def _take(self, event: RunEvent) -> Step:
        said = event.event
        if isinstance(said, Started):
            self._reader = AnswerReader(self._api.texts, self._begun.turn, self._params.stops, said.suffix_ids)
        elif self._reader is None:
            raise ApiError("internal")
        elif isinstance(said, Tokens):
            return self._reader.feed(said)
        elif isinstance(said, Ended):
            self.ended = said
            self._api.remember(self._begun.turn.owner, self._reader.written(said))
            self.usage.add(event.run, said, self._reader.num_tokens)
            return self._reader.finish(said)
        return Step()
