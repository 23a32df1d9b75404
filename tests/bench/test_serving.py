"""An engine's process: it imports before it loads, also where it only makes a first token."""

import io
from typing import Any

from seed_oss.bench.peers import serving


class Engine:
    """Fails where it is loaded before it has imported, as engines do that keep their package."""

    def __init__(self) -> None:
        self.package: str | None = None

    def import_all(self) -> None:
        self.package = "here"

    def load(self, what: dict[str, Any]) -> dict[str, Any]:
        assert self.package is not None
        return {"weight_bytes": 1}

    def run(self, prompt_ids: list[int], new_tokens: int, threads: int) -> tuple[float, float, list[int]]:
        return 0.1, 0.2, [7] * new_tokens

    def encode(self, question: str) -> list[int] | None:
        return None


def test_a_first_token_from_a_fresh_process() -> None:
    out = io.StringIO()
    serving._first_token(Engine(), {"question": "?", "ids": [1], "threads": 1}, out)
    assert out.getvalue() == "first\n"


def test_load_and_run() -> None:
    engine = Engine()
    assert serving._answer(engine, {"do": "load"})["weight_bytes"] == 1
    answer = serving._answer(engine, {"do": "run", "ids": [1], "new_tokens": 2, "threads": 1})
    assert answer == {"prefill_s": 0.1, "decode_s": 0.2, "ids": [7, 7]}
