"""What the ranks of a mesh do that do not schedule."""

import torch

from seed_oss.engine.packed_model import PagedModel
from seed_oss.ops.native import alone


@torch.inference_mode()
def follow(model: PagedModel) -> None:
    """Run every batch that the mesh's first rank runs, until that closes its engine.

    A batch that fails anywhere fails on all ranks; the first one decides what becomes of it.

    Args:
        model: of this rank, see `build_follower`.

    Raises:
        StateError: this is the first rank, or there is no mesh.
        RuntimeError: the first rank is gone.
    """
    with alone(model.is_native):
        while model.run_received():
            pass
