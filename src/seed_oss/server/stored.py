"""Responses that are kept in memory, so that a later one can go on from them."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seed_oss.server.errors import ApiError
from seed_oss.server.streaming import to_json


@dataclass(frozen=True)
class StoredResponse:
    """A response that has ended.

    Attributes:
        body: as it was sent.
        messages: the conversation up to its end, without instructions.
    """

    body: dict[str, Any]
    messages: Sequence[Mapping[str, Any]]


class ResponseStore:
    """The last responses; the oldest go where there are too many.

    Args:
        max_responses: how many.
        max_bytes: their size together, as JSON.
    """

    def __init__(self, max_responses: int, max_bytes: int) -> None:
        self._max_responses, self._max_bytes = max_responses, max_bytes
        self._stored: OrderedDict[tuple[str, str], tuple[StoredResponse, int]] = OrderedDict()
        self._num_bytes = 0

    def put(self, namespace: str, response: StoredResponse) -> None:
        """Keep a response."""
        size = len(to_json([response.body, list(response.messages)]))
        self._stored[namespace, response.body["id"]] = (response, size)
        self._num_bytes += size
        while self._stored and (len(self._stored) > self._max_responses or self._num_bytes > self._max_bytes):
            _, (_, oldest) = self._stored.popitem(last=False)
            self._num_bytes -= oldest

    def get(self, namespace: str, response_id: str, param: str | None = None) -> StoredResponse:
        """A response of the same namespace.

        Raises:
            ApiError: it is not there, or not any more.
        """
        found = self._stored.get((namespace, response_id))
        if found is None:
            raise ApiError(
                "not_found", "there is no such response; they are kept in memory, and the oldest go", param=param
            )
        return found[0]

    def delete(self, namespace: str, response_id: str) -> None:
        """Forget a response.

        Raises:
            ApiError: it is not there.
        """
        self.get(namespace, response_id)
        _, size = self._stored.pop((namespace, response_id))
        self._num_bytes -= size
