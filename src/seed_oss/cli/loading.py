"""A model and its tokenizer, ready to answer."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from seed_oss.cli.devices import device_names
from seed_oss.cli.options import ModelOptions, SamplingOptions

if TYPE_CHECKING:
    from seed_oss import GenerationConfig, SeedOssForCausalLM, SeedOssTokenizer

_SAMPLING_FIELDS = ("temperature", "top_k", "top_p", "min_p")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a command needs to answer."""

    model: "SeedOssForCausalLM"
    tokenizer: "SeedOssTokenizer"

    @property
    def has_template(self) -> bool:
        """Whether the checkpoint says how a conversation is written."""
        return bool(self.tokenizer.chat_template)

    def settings(self, options: SamplingOptions) -> dict[str, Any]:
        """Keyword arguments for `generate` from the options and the checkpoint's advice."""
        return options.settings(advised=_advises_sampling(self.model.generation_config))


def load(options: ModelOptions, *, for_chat: bool) -> Loaded:
    """Load the model and the tokenizer that the options name.

    Args:
        options: which model, and where and how it runs.
        for_chat: the chat template will probably be used, so what renders it starts while the model loads.

    Raises:
        typer.BadParameter: a device that is not there.
        SeedOssError: the checkpoint cannot be had or used.
    """
    from seed_oss import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.model, revision=options.revision)
    if for_chat:
        tokenizer.prepare_chat_template()
    # This takes a second, in which the other process starts; torch comes with it.
    from seed_oss import AutoModelForCausalLM  # isort: split
    import torch

    device = _device(options.device)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    model = AutoModelForCausalLM.from_pretrained(
        options.model,
        dtype=options.dtype.value,
        device_map=device,
        revision=options.revision,
        quantization=options.quantization,
    )
    return Loaded(model, tokenizer)


def _device(name: str) -> str:
    """The device, once it is known to be there."""
    import torch

    available = ["auto", *device_names(torch)]
    if name not in available:
        raise typer.BadParameter(
            f"'{name}' is not here; this machine has {', '.join(available)} (seed-oss doctor says why)",
            param_hint="--device",
        )
    return name


def _advises_sampling(config: "GenerationConfig | None") -> bool:
    """Whether generation_config.json asks for sampling, in words or by settings that have no other use.

    The released checkpoints set temperature and top_p and leave do_sample out.
    """
    if config is None:
        return False
    if config.is_set("do_sample"):
        return config.do_sample
    return any(config.is_set(name) for name in _SAMPLING_FIELDS)
