"""The rows that are alive, each either running or waiting, both in the order in which they are served."""

from bisect import insort
from collections.abc import Iterable, Iterator
from operator import attrgetter

from seed_oss.engine.batch import RowKey
from seed_oss.engine.sequence import Sequence


class RowTable:
    """Finds rows by key and by request, and keeps both queues in order."""

    def __init__(self) -> None:
        self.running: list[Sequence] = []
        self.waiting: list[Sequence] = []
        self._by_key: dict[RowKey, Sequence] = {}
        self._by_request: dict[str, list[Sequence]] = {}

    def __len__(self) -> int:
        """How many rows are alive."""
        return len(self._by_key)

    def __iter__(self) -> Iterator[Sequence]:
        """All rows, in the order of their arrival; the table may change meanwhile."""
        return iter(tuple(self._by_key.values()))

    def get(self, key: RowKey) -> Sequence | None:
        """The row with this key, or None."""
        return self._by_key.get(key)

    def of_request(self, request_id: str) -> tuple[Sequence, ...]:
        """The rows of a request that are alive."""
        return tuple(self._by_request.get(request_id, ()))

    def add(self, sequence: Sequence) -> None:
        """Take in a new row, which waits."""
        self._by_key[sequence.row.key] = sequence
        self._by_request.setdefault(sequence.row.key.request_id, []).append(sequence)
        insort(self.waiting, sequence, key=attrgetter("order"))

    def excuse(self, keys: Iterable[RowKey], now: float) -> None:
        """Rows that do nothing now, which is not for want of a turn."""
        for key in keys:
            if key in self._by_key:
                self._by_key[key].progressed_at = now

    def run(self, sequence: Sequence) -> None:
        """Move a waiting row to the running ones."""
        self.waiting.remove(sequence)
        insort(self.running, sequence, key=attrgetter("order"))
        sequence.is_running = True

    def wait(self, sequence: Sequence) -> None:
        """Move a running row to the waiting ones, where its order puts it."""
        self.running.remove(sequence)
        insort(self.waiting, sequence, key=attrgetter("order"))
        sequence.is_running = False

    def remove(self, sequence: Sequence) -> None:
        """Forget a row."""
        (self.running if sequence.is_running else self.waiting).remove(sequence)
        sequence.is_running = False
        request_id = sequence.row.key.request_id
        del self._by_key[sequence.row.key]
        self._by_request[request_id].remove(sequence)
        if not self._by_request[request_id]:
            del self._by_request[request_id]
