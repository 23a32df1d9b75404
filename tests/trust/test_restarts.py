"""A server that is started again finds the blocks on disk, and answers the same."""

import signal
from pathlib import Path
from typing import Any

from tests.cli.conftest import make_checkpoint
from tests.trust.real_server import completion, real_server

PROMPT = [7 + number % 200 for number in range(70)]


def lived(folder: Path, cache_dir: Path) -> Any:
    """What a server says that is started anew and ends in good order, as whoever runs it would end it."""
    spec = {"max_num_seqs": 4, "max_model_len": 256, "cache_dir": str(cache_dir)}
    with real_server(folder, spec=spec) as server:
        server.event("ready")
        status, _, body = server.ask("/v1/completions", completion(PROMPT, 12, logprobs=2, ignore_eos=True))
        assert status == 200, body
        server.process.send_signal(signal.SIGTERM)
        assert server.event("stopped")["code"] == 0
        assert server.process.wait(60) == 0
    return body


def test_a_server_that_is_started_again_finds_what_it_computed(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model")
    first, again = (lived(folder, tmp_path / "cache") for _ in range(2))
    cached = [one["usage"]["prompt_tokens_details"]["cached_tokens"] for one in (first, again)]
    assert cached == [0, 64]
    assert again["choices"] == first["choices"]
    assert again["choices"][0]["finish_reason"] == "length"
