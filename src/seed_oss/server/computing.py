"""Tasks that give no text: handed in a few at a time, and gathered."""

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request

from seed_oss.config.sampling import SamplingParams
from seed_oss.engine.messages import Computed, Ended, Submit, Task
from seed_oss.server.api import Api
from seed_oss.server.errors import ApiError
from seed_oss.server.runs import Runs
from seed_oss.server.streaming import unless_gone
from seed_oss.server.usage import Usage

_AT_ONCE = 32


async def compute(
    api: Api,
    request: Request,
    task: Task,
    rows: Sequence[Sequence[int]],
    *,
    param: str,
    params: SamplingParams | None = None,
    priority: int | None = None,
    adapter: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[list[Computed], Usage]:
    """What a task gives for some prompts.

    Args:
        api: the common ground.
        request: it is done for.
        task: what is wanted.
        rows: ids of the prompts.
        param: the field that they came from.
        params: of the task.
        priority, adapter, options: see `Submit`.

    Raises:
        ApiError: the task is not there, a prompt is too long, or the engine refuses.
    """
    api.check_task(task)
    for row in rows:
        api.check_length(len(row), 0, param)
    submits = [
        api.submit(
            request, row, params or SamplingParams(), task=task, priority=priority, adapter=adapter, **(options or {})
        )
        for row in rows
    ]
    usage = Usage()
    results = await unless_gone(request, _gather(api, submits, usage))
    usage.tell(request)
    return results, usage


async def _gather(api: Api, submits: Sequence[Submit], usage: Usage) -> list[Computed]:
    found: dict[int, Computed] = {}
    async with Runs(api.client, submits, api.places, min(_AT_ONCE, api.num_at_once)) as runs:
        async for event in runs.after(None):
            if isinstance(event.event, Computed):
                found[event.run] = event.event
            elif isinstance(event.event, Ended):
                usage.add(event.run, event.event, 0)
    if len(found) < len(submits):
        raise ApiError("internal")
    return [found[index] for index in range(len(submits))]
