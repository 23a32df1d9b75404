"""One seed for every generator that torch code draws from."""

import random

import numpy as np
import torch

from seed_oss.generation.noise import split_seed


def set_seed(seed: int, deterministic: bool = False) -> None:
    """Seed the global generators of Python, NumPy and torch, on every device.

    Args:
        seed: an integer, 0 to 2**32 - 1 (NumPy takes no more).
        deterministic: let torch use deterministic algorithms only.

    Raises:
        InputError: `seed` is not an integer.
        ValueError: NumPy refuses it.
    """
    split_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if deterministic:
        torch.use_deterministic_algorithms(True)
