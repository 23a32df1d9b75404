"""How decoding attention cuts a row's keys into chunks: by the capacity of the cache alone."""

from seed_oss.ops.triton.launch import blocks_of, power_of_two

MIN_CHUNK = 256
MAX_CHUNKS = 64


def chunk_len(capacity: int) -> int:
    """Keys per program: 256, or more where that would make too many chunks; a power of two."""
    return max(MIN_CHUNK, power_of_two(blocks_of(capacity, MAX_CHUNKS)))


def chunking(capacity: int) -> tuple[int, int]:
    """Keys per program, and the power of two that programs for their chunks are compiled for."""
    return chunk_len(capacity), power_of_two(blocks_of(capacity, chunk_len(capacity)))
