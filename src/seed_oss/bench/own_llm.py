"""This package's `LLM`, the engine of the server, as an engine's process: one request at a time."""

import time
from typing import Any

from seed_oss.bench.peers.serving import serve


class SeedOssLLM:
    """See peers.serving.Engine."""

    llm: Any
    model: Any
    num_runs = 0

    def import_all(self) -> None:
        """See peers.serving.Engine."""
        import seed_oss.bench.own_model
        import seed_oss.engine.llm  # noqa: F401

    def load(self, what: dict[str, Any]) -> dict[str, Any]:
        """`what`: see own_model.load_model."""
        from seed_oss.bench.own_model import load_model, read_bytes
        from seed_oss.engine.llm import LLM

        self.model = load_model(what)
        self.llm = LLM(self.model, max_num_seqs=1)
        return {"weight_bytes": read_bytes(self.model)}

    def run(self, prompt_ids: list[int], new_tokens: int, threads: int) -> tuple[float, float, list[int]]:
        """See peers.serving.Engine. Each prompt is in a namespace of its own, so none is found in the cache."""
        import torch

        from seed_oss import SamplingParams
        from seed_oss.engine.messages import Submit, Tokens

        torch.set_num_threads(threads)
        self.num_runs += 1
        params = SamplingParams(max_tokens=new_tokens, temperature=0.0, ignore_eos=True)
        start = time.perf_counter()
        self.llm.core.submit(Submit(str(self.num_runs), tuple(prompt_ids), params, namespace=str(self.num_runs)))
        times: list[float] = []
        found: list[int] = []
        while self.llm.core.has_work:
            events = self.llm.core.step()
            new = [one for event in events if isinstance(event, Tokens) for one in event.token_ids]
            times += [time.perf_counter()] * bool(new)
            found += new
        return times[0] - start, times[-1] - times[0], found

    def read_rate(self, threads: int) -> float | None:
        """See own_model.read_rate."""
        from seed_oss.bench.own_model import read_rate

        return read_rate(self.model, threads)

    def encode(self, question: str) -> list[int] | None:
        """Its start is not measured."""
        return None


if __name__ == "__main__":
    serve(SeedOssLLM())
