"""Kernels in C++ for CPUs: loading them, and what their arguments look like. Sources are in csrc."""

from seed_oss.ops.native.library import (
    INSTRUCTION_SETS,
    instruction_set,
    library,
    set_instruction_set,
    why_not,
)

__all__ = ["INSTRUCTION_SETS", "instruction_set", "library", "set_instruction_set", "why_not"]
