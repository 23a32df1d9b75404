"""Batches for all ranks of a mesh: the first one schedules and sends each batch as plain int64, the others run it.

    number of numbers | per row: start, tokens, drafts, is sampled, blocks, total length, adapter, ids, block ids

Nothing is pickled. An empty batch tells the others to end.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from seed_oss.engine.batch import RowKey, ScheduledBatch, ScheduledRow
from seed_oss.engine.forward import RowTraits
from seed_oss.errors import ConfigError, EngineError

_HEAD_LEN = 7
_Result = TypeVar("_Result")


class Ranks:
    """The processes of a mesh.

    Args:
        mesh: of one dimension.
        device: of this rank's model.

    Raises:
        ConfigError: the mesh has more dimensions, or is made for another kind of device.
    """

    def __init__(self, mesh: DeviceMesh, device: torch.device) -> None:
        if mesh.ndim != 1:
            raise ConfigError(f"mesh has {mesh.ndim} dimensions; the engine takes 1: flatten it, or give a slice of it")
        if mesh.device_type != device.type:
            raise ConfigError(f"mesh is of {mesh.device_type}, the model on {device.type}; load the model there")
        self._group, self._device = mesh.get_group(), device
        self._first = dist.get_global_rank(self._group, 0)
        self.size, self.is_first = mesh.size(), mesh.get_local_rank() == 0

    def send(self, numbers: Sequence[int]) -> None:
        """Give numbers to all others; to be called by the first rank."""
        self._share([len(numbers)])
        if numbers:
            self._share(numbers)

    def receive(self) -> list[int]:
        """What the first rank sends next; to be called by each of the others."""
        (count,) = self._share([0])
        return self._share([0] * count) if count else []

    def together(self, run: Callable[[], _Result]) -> _Result:
        """Run something that all ranks run now, so that it fails on all of them or on none.

        Raises:
            Exception: what it raised here.
            EngineError: it failed on another rank.
        """
        results, failure = list[_Result](), None
        try:
            results.append(run())
        except Exception as error:  # noqa: BLE001 - it is raised once the others know
            failure = error
        num_failed = self._reduced(failure is not None, dist.ReduceOp.SUM)
        if failure is not None:
            raise failure
        if num_failed:
            raise EngineError(f"a step failed on {num_failed} other ranks of {self.size}; see their logs")
        return results[0]

    def least(self, number: int) -> int:
        """The smallest of the numbers that the ranks give."""
        return self._reduced(number, dist.ReduceOp.MIN)

    def _share(self, numbers: Sequence[int]) -> list[int]:
        tensor = self._tensor(numbers)
        dist.broadcast(tensor, src=self._first, group=self._group)
        return tensor.tolist()

    def _reduced(self, number: int, how: dist.ReduceOp.RedOpType) -> int:
        tensor = self._tensor([int(number)])
        dist.all_reduce(tensor, how, group=self._group)
        return int(tensor)

    def _tensor(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self._device)


def numbers_of(batch: ScheduledBatch, traits: Sequence[RowTraits], adapters: Sequence[str | None]) -> list[int]:
    """The rows of a batch as numbers, without names of requests and ends of answers; blocks of the disk are left out.

    Args:
        batch: at least one row.
        traits: of each row.
        adapters: all names, in an order that is the same on all ranks.
    """
    numbers: list[int] = []
    for row, one in zip(batch.rows, traits, strict=True):
        sizes = row.start, len(row.token_ids), row.num_drafts, int(row.is_sampled), len(row.block_ids)
        numbers += (*sizes, one.total_len, adapters.index(one.adapter), *row.token_ids, *row.block_ids)
    return numbers


def batch_of(numbers: Sequence[int], adapters: Sequence[str | None]) -> tuple[ScheduledBatch, list[RowTraits]]:
    """The batch that `numbers_of` wrote down, and the traits of its rows; the rows are named by their places."""
    rows, traits, left = list[ScheduledRow](), list[RowTraits](), iter(numbers)
    while head := _take(left, _HEAD_LEN):
        start, num_tokens, num_drafts, is_sampled, num_blocks, total_len, adapter = head
        key, token_ids, block_ids = RowKey("", len(rows)), _take(left, num_tokens), _take(left, num_blocks)
        rows.append(ScheduledRow(key, start, token_ids, num_drafts, block_ids, bool(is_sampled)))
        traits.append(RowTraits(total_len, adapters[adapter]))
    return ScheduledBatch(tuple(rows)), traits


def _take(numbers: Iterator[int], count: int) -> tuple[int, ...]:
    return tuple(islice(numbers, count))
