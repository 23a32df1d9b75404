"""Responses that are kept in memory, so that a later one can go on from them."""

import threading
from collections import OrderedDict
from dataclasses import dataclass

from seed_oss.server.errors import ApiError


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response that has ended. Both are JSON: as objects they would take many times the memory.

    Attributes:
        body: as it was sent.
        messages: the conversation up to its end, without instructions.
    """

    body: bytes
    messages: bytes

    @property
    def num_bytes(self) -> int:
        """Of both."""
        return len(self.body) + len(self.messages)


class ResponseStore:
    """The last responses; the oldest go where there are too many. Threads may share it.

    Args:
        max_responses: how many.
        max_bytes: their size together.
    """

    def __init__(self, max_responses: int, max_bytes: int) -> None:
        self._max_responses, self._max_bytes = max_responses, max_bytes
        self._stored: OrderedDict[tuple[str, str], StoredResponse] = OrderedDict()
        self._num_bytes = 0
        self._lock = threading.Lock()

    def put(self, namespace: str, response_id: str, response: StoredResponse) -> None:
        """Keep a response."""
        with self._lock:
            self._stored[namespace, response_id] = response
            self._num_bytes += response.num_bytes
            while self._stored and (len(self._stored) > self._max_responses or self._num_bytes > self._max_bytes):
                _, oldest = self._stored.popitem(last=False)
                self._num_bytes -= oldest.num_bytes

    def get(self, namespace: str, response_id: str, param: str | None = None) -> StoredResponse:
        """A response of the same namespace.

        Raises:
            ApiError: it is not there, or not any more.
        """
        with self._lock:
            found = self._stored.get((namespace, response_id))
        if found is None:
            raise _not_there(param)
        return found

    def delete(self, namespace: str, response_id: str) -> None:
        """Forget a response.

        Raises:
            ApiError: it is not there.
        """
        with self._lock:
            found = self._stored.pop((namespace, response_id), None)
            self._num_bytes -= 0 if found is None else found.num_bytes
        if found is None:
            raise _not_there()


def _not_there(param: str | None = None) -> ApiError:
    return ApiError("not_found", "there is no such response; they are kept in memory, and the oldest go", param=param)
