"""Kernels in C++ for CPUs: loading them, and what their arguments look like. Sources are in csrc."""

from seed_oss.ops.native.library import (
    INSTRUCTION_SETS,
    instruction_set,
    library,
    set_instruction_set,
    why_not,
)
from seed_oss.ops.native.threads import alone, num_threads, together

__all__ = [
    "INSTRUCTION_SETS",
    "alone",
    "instruction_set",
    "library",
    "num_threads",
    "set_instruction_set",
    "together",
    "why_not",
]
