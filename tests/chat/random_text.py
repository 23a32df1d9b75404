"""Random text without surrogates, rich in what tokenizers get wrong."""

import random

_RANGES = (
    (0x20, 0x7E),
    (0x00, 0x1F),
    (0x7F, 0x9F),
    (0xA0, 0x24F),
    (0x300, 0x36F),  # combining marks
    (0x370, 0x52F),
    (0x590, 0x6FF),  # right to left
    (0x900, 0x97F),
    (0xE00, 0xE7F),
    (0x2000, 0x206F),  # spaces, joiners, direction marks
    (0x3000, 0x30FF),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3),
    (0xE000, 0xF8FF),  # private use
    (0xFE00, 0xFE0F),
    (0xFFF0, 0xFFFF),
    (0x1F300, 0x1FAFF),  # emoji
    (0x1F1E6, 0x1F1FF),
    (0xE0001, 0xE007F),
    (0x10000, 0x10FFFF),
)
_WORDS = (
    "the", "capital", " of", "France", "I've", "don't", "thinking", "budget", "512", "3.14", "def f(x):",
    "工具调用", "日本語", "русский", "עברית", "🙂", "👩‍👩‍👧‍👦", "🏳️‍🌈", "é", "▁", "##ing", "Ġ", "<0x41>", "</w>",
)  # fmt: skip
_SPACES = (" ", "  ", "\n", "\n\n", "\t", "\r\n", " ", "　", "​", "‍", "\x00")


def random_text(rng: random.Random, markers: tuple[str, ...] = ()) -> str:
    """A text of 0 to about 60 pieces: words, spaces, odd characters, long runs, and now and then a marker."""
    pieces = [_piece(rng, markers) for _ in range(int(60 * rng.random() ** 2))]
    return "".join(pieces)


def random_texts(num_texts: int, seed: int, markers: tuple[str, ...] = ()) -> list[str]:
    """Texts that depend on the seed alone; the empty one is among them."""
    rng = random.Random(seed)
    return ["", *(random_text(rng, markers) for _ in range(num_texts - 1))]


def _piece(rng: random.Random, markers: tuple[str, ...]) -> str:
    kind = rng.random()
    if kind < 0.35:
        return rng.choice(_WORDS)
    if kind < 0.55:
        return rng.choice(_SPACES)
    if kind < 0.85:
        return chr(rng.randint(*rng.choice(_RANGES)))
    if kind < 0.90:
        return chr(rng.randint(*rng.choice(_RANGES))) * rng.randint(2, 200)
    if markers:
        marker = rng.choice(markers)
        return marker if rng.random() < 0.8 else marker[: rng.randrange(len(marker))]
    return rng.choice(_WORDS)
