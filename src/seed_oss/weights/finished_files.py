"""Tensors in finished files of a workshop, read again to be put together into shards, or to go on after a kill."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import final

from torch import Tensor

from seed_oss.errors import CheckpointError
from seed_oss.weights.resumable import ShardWorkshop
from seed_oss.weights.save import tensor_pieces, write_file
from seed_oss.weights.source import CheckpointSource, TensorSpec, WeightSource


def write_tensors(workshop: ShardWorkshop, file: str, tensors: Mapping[str, Tensor]) -> None:
    """Make a file of a workshop.

    Args:
        workshop: opened.
        file: its name.
        tensors: what it holds.

    Raises:
        OSError: disk full and the like; what was finished before stays.
    """
    specs = {name: TensorSpec(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    workshop.make(
        file, lambda out: write_file(out, specs, lambda name: tensor_pieces(tensors[name]), None, packed_first=True)
    )


@final
class FinishedFiles(WeightSource):
    """A source of them. A file is compared with its checksum before anything is read from it.

    Args:
        workshop: opened.
        specs: tensor name -> dtype and shape; files that are not read any more may be gone.
        file_of: tensor name -> name of its file.
    """

    def __init__(self, workshop: ShardWorkshop, specs: Mapping[str, TensorSpec], file_of: Mapping[str, str]) -> None:
        self.name, self.specs = str(workshop.folder), specs
        self._workshop, self._file_of = workshop, file_of
        self._open: CheckpointSource | None = None

    def groups(self) -> list[list[str]]:
        """One group per file."""
        by_file: dict[str, list[str]] = {}
        for name in self.specs:
            by_file.setdefault(self._file_of[name], []).append(name)
        return list(by_file.values())

    @contextmanager
    def opened(self, group: list[str]) -> Iterator[None]:
        """Open the files of a group.

        Raises:
            CheckpointError: one is gone, or not what was written.
        """
        files = sorted({self._file_of[name] for name in group})
        for file in files:
            if not self._workshop.is_finished(file):
                raise self._damaged(file)
        source = CheckpointSource(self._workshop.folder, files)
        for name in group:
            if source.specs.get(name) != self.specs[name]:
                raise self._damaged(self._file_of[name])
        with source.opened(group):
            self._open = source
            try:
                yield
            finally:
                self._open = None

    def read_into(self, name: str, out: Tensor) -> None:
        """Read one tensor."""
        if self._open is None:
            raise RuntimeError("read outside of opened()")
        self._open.read_into(name, out)

    def _damaged(self, file: str) -> CheckpointError:
        return CheckpointError(
            f"{file} in {self.name} is gone or damaged; run the same command again, which then starts over"
        )
