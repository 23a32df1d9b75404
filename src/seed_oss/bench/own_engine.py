"""This package's `generate()`, as an engine's process."""

from typing import Any

from seed_oss.bench.peers.serving import TokenClock, serve


class SeedOss:
    """See peers.serving.Engine."""

    model: Any
    tokenizer: Any = None

    def import_all(self) -> None:
        """See peers.serving.Engine."""
        from seed_oss import AutoModelForCausalLM, AutoTokenizer  # noqa: F401, I001  # as a program does it
        import seed_oss.bench.own_model  # noqa: F401

    def load(self, what: dict[str, Any]) -> dict[str, Any]:
        """`what`: see own_model.load_model."""
        if "question" in what:
            from seed_oss import AutoTokenizer

            self.tokenizer = AutoTokenizer.from_pretrained(what["directory"])
            self.tokenizer.prepare_chat_template()
        from seed_oss.bench.own_model import load_model, read_bytes

        self.model = load_model(what)
        self.model.generation_config.eos_token_id = None
        return {"weight_bytes": read_bytes(self.model)}

    def run(self, prompt_ids: list[int], new_tokens: int, threads: int) -> tuple[float, float, list[int]]:
        """See peers.serving.Engine."""
        import torch

        torch.set_num_threads(threads)
        ids, clock = torch.tensor([prompt_ids]), TokenClock()
        out = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False, streamer=clock
        )
        prefill, decode = clock.seconds(new_tokens)
        return prefill, decode, out[0, len(prompt_ids) :].tolist()

    def read_rate(self, threads: int) -> float | None:
        """See own_model.read_rate."""
        from seed_oss.bench.own_model import read_rate

        return read_rate(self.model, threads)

    def encode(self, question: str) -> list[int] | None:
        """By the checkpoint's tokenizer and chat template."""
        messages = [{"role": "user", "content": question}]
        found = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        return [int(one) for one in found["input_ids"]]


if __name__ == "__main__":
    serve(SeedOss())
