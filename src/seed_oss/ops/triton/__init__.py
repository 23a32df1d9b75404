"""Kernels in Triton for CUDA devices: when they run, and the builder that compiles them beside the first steps.

Nothing here imports triton; the modules with kernels in them do, and are imported by whoever is about to run one.
"""

from seed_oss.ops.triton.building import Builder, builder, take_over
from seed_oss.ops.triton.gate import can_run, is_interpreted, why_not

__all__ = ["Builder", "builder", "can_run", "is_interpreted", "take_over", "why_not"]
