"""Finding the row that makes a step fail, by running halves of the failed batch until one row is left."""

from collections.abc import Container, Iterable

from seed_oss.engine.batch import RowKey, ScheduledRow
from seed_oss.engine.rows import RowTable


class Suspects:
    """Groups of rows that run apart from all others. A group is cleared once all of it got past where it failed."""

    def __init__(self) -> None:
        self._groups: list[dict[RowKey, int]] = []  # per row the computed tokens that clear it; the last group runs

    @property
    def group(self) -> frozenset[RowKey] | None:
        """The rows that may run; None is all."""
        return frozenset(self._groups[-1]) if self._groups else None

    def blame(self, rows: tuple[ScheduledRow, ...], alive: Iterable[RowKey]) -> frozenset[RowKey]:
        """A step failed, and nobody knows through which row.

        Args:
            rows: the batch.
            alive: its rows that have not ended meanwhile.

        Returns:
            The guilty row, if it was alone; otherwise nothing, and the rows run again in halves.
        """
        if len(rows) == 1:
            return frozenset(alive)
        goals = {row.key: row.start + len(row.token_ids) - row.num_drafts for row in rows}
        keys = [key for key in goals if key in set(alive)]
        self._set_apart(goals)
        half = (len(keys) + 1) // 2
        self._groups += [{key: goals[key] for key in part} for part in (keys[half:], keys[:half]) if part]
        return frozenset()

    def _set_apart(self, failed: Container[RowKey]) -> None:
        """Those of the running group that were not in the failed batch remain to be tried."""
        if self._groups:
            rest = {key: goal for key, goal in self._groups.pop().items() if key not in failed}
            self._groups += [rest] if rest else []

    def review(self, rows: RowTable) -> bool:
        """Drop groups that are cleared or gone.

        Args:
            rows: those alive.

        Returns:
            Whether another group is next, so that whatever runs has to make room for it.
        """
        num_before = len(self._groups)
        while self._groups and not _has_open(self._groups[-1], rows):
            self._groups.pop()
        return 0 < len(self._groups) < num_before


def _has_open(group: dict[RowKey, int], rows: RowTable) -> bool:
    found = ((rows.get(key), goal) for key, goal in group.items())
    return any(sequence is not None and sequence.num_computed < goal for sequence, goal in found)
