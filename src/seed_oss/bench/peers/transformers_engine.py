"""transformers on torch, in the dtype that is asked for, greedy, with its own cache."""

from typing import Any

from seed_oss.bench.peers.serving import TokenClock, serve


class Transformers:
    """See serving.Engine."""

    model: Any
    tokenizer: Any = None

    def import_all(self) -> None:
        """See serving.Engine."""
        import transformers.models.auto.modeling_auto  # noqa: F401

    def load(self, what: dict[str, Any]) -> dict[str, Any]:
        """`what`: `dtype`, and `directory` or the `config` of a model with random weights."""
        import torch
        import transformers

        dtype = getattr(torch, what["dtype"])
        if "config" in what:
            config = transformers.AutoConfig.for_model(**what["config"])
            self.model = _random_model(transformers.AutoModelForCausalLM, config, dtype)
        else:
            if "question" in what:
                self.tokenizer = transformers.AutoTokenizer.from_pretrained(what["directory"])
            self.model = transformers.AutoModelForCausalLM.from_pretrained(what["directory"], dtype=dtype)
        self.model.generation_config.eos_token_id = None
        unique = {p.data_ptr(): p for p in self.model.parameters()}.values()
        return {"weight_bytes": sum(p.nbytes for p in unique) - _untied_embedding(self.model)}

    def run(self, prompt_ids: list[int], new_tokens: int, threads: int) -> tuple[float, float, list[int]]:
        """See serving.Engine."""
        import torch

        torch.set_num_threads(threads)
        ids, clock = torch.tensor([prompt_ids]), TokenClock()
        out = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False, streamer=clock
        )
        prefill, decode = clock.seconds(new_tokens)
        return prefill, decode, out[0, len(prompt_ids) :].tolist()

    def encode(self, question: str) -> list[int] | None:
        """By the checkpoint's tokenizer and chat template."""
        messages = [{"role": "user", "content": question}]
        found = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        return list(found["input_ids"])


def _random_model(auto: Any, config: Any, dtype: Any) -> Any:
    """Small random numbers in every matrix, without the slow initialisation."""
    import torch

    with torch.device("meta"):
        model = auto.from_config(config, dtype=dtype)
    model = model.to_empty(device="cpu").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.uniform_(-0.03, 0.03)
            else:
                parameter.fill_(1.0)
    decoder = model.model
    decoder.rotary_emb = type(decoder.rotary_emb)(config=config)  # its frequencies are no parameters
    return model


def _untied_embedding(model: Any) -> int:
    """Bytes of an embedding of which a step reads one row only."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return 0 if embedding.data_ptr() == head.data_ptr() else embedding.nbytes


if __name__ == "__main__":
    serve(Transformers())
