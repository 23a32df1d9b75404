"""Parts of an answer that say the same in fewer pieces."""

from seed_oss.server.parts import ArgumentsPart, CallEndPart, CallPart, ContentPart, Part, ReasoningPart, merged
from tests.stopwatch import Stopwatch


def test_neighbouring_texts_of_one_kind_are_joined() -> None:
    parts: list[Part] = [
        *(ReasoningPart("a"), ReasoningPart("b"), ContentPart("c"), ContentPart("d"), ReasoningPart("e")),
        *(CallPart(0, "x", "f"), ArgumentsPart(0, "{"), ArgumentsPart(0, "}"), CallEndPart(0)),
        *(ArgumentsPart(1, "["), ArgumentsPart(2, "]"), CallEndPart(1), CallEndPart(1)),
    ]
    assert merged(parts) == [
        *(ReasoningPart("ab"), ContentPart("cd"), ReasoningPart("e")),
        *(CallPart(0, "x", "f"), ArgumentsPart(0, "{}"), CallEndPart(0)),
        *(ArgumentsPart(1, "["), ArgumentsPart(2, "]"), CallEndPart(1), CallEndPart(1)),
    ]
    assert merged([]) == []


def test_many_texts_take_no_longer_each_than_few() -> None:
    with Stopwatch() as spent:
        (part,) = merged([ContentPart("abcdefgh")] * 200_000)
        assert isinstance(part, ContentPart)
        assert len(part.text) == 1_600_000
    assert spent.seconds < 3
