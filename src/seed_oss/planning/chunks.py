"""How many prompt tokens one forward takes: what `generate` runs and the planner counts on."""

MAX_CHUNK_LEN = 2048  # bounds the activations of the prompt
MAX_MASK_ENTRIES = 2**27  # bounds chunk x context, the size of the mask that a chunk behind others needs
MIN_CHUNK_LEN = 256
WHOLE = 2**63 - 1  # of a prompt that is never cut


def default_chunk_len(total_len: int) -> int:
    """Most prompt tokens of a row in one forward, for a context of `total_len` tokens."""
    return min(MAX_CHUNK_LEN, max(MAX_MASK_ENTRIES // max(total_len, 1), MIN_CHUNK_LEN))


def runs_whole(rope_type: str) -> bool:
    """Whether a prompt is never cut: rotated by the length of a forward, the first of several chunks comes out other
    than in one."""
    return rope_type in ("dynamic", "longrope")
