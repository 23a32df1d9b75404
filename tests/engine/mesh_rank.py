"""One rank of a mesh on the CPU: `python -m tests.engine.mesh_rank RANK SIZE FOLDER` follows the first one."""

import contextlib
import hashlib
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore
from torch.distributed.device_mesh import DeviceMesh

from seed_oss.engine.build import LoadedModel, build_follower
from seed_oss.engine.follower import follow
from seed_oss.engine.packed_model import PagedModel
from seed_oss.engine.spec import EngineSpec
from tests.lora import small_model

PATIENCE = timedelta(seconds=60)
BROKEN = "broken"  # a file of this name makes the follower's model fail once


def spec(folder: Path) -> EngineSpec:
    """Settings of all ranks."""
    lora = (f"tuned={folder / 'lora'}",) if (folder / "lora").exists() else ()
    return EngineSpec("(loaded)", max_num_seqs=4, max_model_len=128, max_num_batched_tokens=24, lora=lora)


def loaded() -> LoadedModel:
    """The same weights on each."""
    return LoadedModel(small_model(), None)


@contextlib.contextmanager
def mesh_of(rank: int, size: int, folder: Path) -> Iterator[DeviceMesh]:
    """A mesh of processes that meet in a folder."""
    store = FileStore(str(folder / "meeting"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield DeviceMesh("cpu", list(range(size)))
    finally:
        dist.destroy_process_group()


def digest_of(model: PagedModel) -> str:
    """All keys and values that a rank holds."""
    digest = hashlib.sha256()
    for room in model._cache.rooms:
        for tensor in (room.keys, room.values):
            digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def fail_once(model: PagedModel) -> None:
    """Let the next batch of several rows raise."""
    run = model._run

    def failing(batch: Any, traits: Any) -> torch.Tensor:
        if len(batch.rows) > 1 and batch.rows[0].num_drafts == 0 and batch.rows[0].start > 2:
            model._run = run  # type: ignore[method-assign]
            raise MemoryError("no room on this rank")
        return run(batch, traits)

    model._run = failing  # type: ignore[method-assign]


def main(rank: int, size: int, folder: Path) -> None:
    """Follow, and write down what the cache holds then."""
    torch.set_num_threads(1)
    with mesh_of(rank, size, folder) as mesh:
        model = build_follower(spec(folder), loaded(), mesh=mesh)
        if (folder / BROKEN).exists():
            fail_once(model)
        follow(model)
        sys.stdout.write(digest_of(model))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
