"""Seed-OSS on PyTorch, without transformers. Names are loaded when first used (PEP 562)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from seed_oss._collector import collector_paused
from seed_oss._version import __version__

_HOMES = {
    "SeedOssConfig": "seed_oss.config",
    "GenerationConfig": "seed_oss.config",
    "SeedOssPreTrainedModel": "seed_oss.models",
    "SeedOssModel": "seed_oss.models",
    "SeedOssForCausalLM": "seed_oss.models",
    "SeedOssForSequenceClassification": "seed_oss.models",
    "SeedOssForTokenClassification": "seed_oss.models",
    "SeedOssForQuestionAnswering": "seed_oss.models",
    "AutoConfig": "seed_oss.models",
    "AutoModel": "seed_oss.models",
    "AutoModelForCausalLM": "seed_oss.models",
    "AutoModelForSequenceClassification": "seed_oss.models",
    "AutoModelForTokenClassification": "seed_oss.models",
    "AutoModelForQuestionAnswering": "seed_oss.models",
    "AutoTokenizer": "seed_oss.chat",
    "SeedOssTokenizer": "seed_oss.chat",
    "DynamicCache": "seed_oss.cache",
    "QuantizedCache": "seed_oss.cache",
    "StaticCache": "seed_oss.cache",
    "TextStreamer": "seed_oss.generation",
    "TextIteratorStreamer": "seed_oss.generation",
    "LogitsProcessor": "seed_oss.generation",
    "LogitsProcessorList": "seed_oss.generation",
    "StoppingCriteria": "seed_oss.generation",
    "StoppingCriteriaList": "seed_oss.generation",
    "set_seed": "seed_oss.generation",
    "AsyncLLM": "seed_oss.engine.async_llm",
    "LLM": "seed_oss.engine.llm",
    "SamplingParams": "seed_oss.config.sampling",
    "quantize_": "seed_oss.quant.quantize",
    "plan": "seed_oss.planning.plan",
}

if TYPE_CHECKING:
    from seed_oss.cache import DynamicCache as DynamicCache
    from seed_oss.cache import QuantizedCache as QuantizedCache
    from seed_oss.cache import StaticCache as StaticCache
    from seed_oss.chat import AutoTokenizer as AutoTokenizer
    from seed_oss.chat import SeedOssTokenizer as SeedOssTokenizer
    from seed_oss.config import GenerationConfig as GenerationConfig
    from seed_oss.config import SeedOssConfig as SeedOssConfig
    from seed_oss.config.sampling import SamplingParams as SamplingParams
    from seed_oss.engine.async_llm import AsyncLLM as AsyncLLM
    from seed_oss.engine.llm import LLM as LLM
    from seed_oss.generation import LogitsProcessor as LogitsProcessor
    from seed_oss.generation import LogitsProcessorList as LogitsProcessorList
    from seed_oss.generation import StoppingCriteria as StoppingCriteria
    from seed_oss.generation import StoppingCriteriaList as StoppingCriteriaList
    from seed_oss.generation import TextIteratorStreamer as TextIteratorStreamer
    from seed_oss.generation import TextStreamer as TextStreamer
    from seed_oss.generation import set_seed as set_seed
    from seed_oss.models import AutoConfig as AutoConfig
    from seed_oss.models import AutoModel as AutoModel
    from seed_oss.models import AutoModelForCausalLM as AutoModelForCausalLM
    from seed_oss.models import AutoModelForQuestionAnswering as AutoModelForQuestionAnswering
    from seed_oss.models import AutoModelForSequenceClassification as AutoModelForSequenceClassification
    from seed_oss.models import AutoModelForTokenClassification as AutoModelForTokenClassification
    from seed_oss.models import SeedOssForCausalLM as SeedOssForCausalLM
    from seed_oss.models import SeedOssForQuestionAnswering as SeedOssForQuestionAnswering
    from seed_oss.models import SeedOssForSequenceClassification as SeedOssForSequenceClassification
    from seed_oss.models import SeedOssForTokenClassification as SeedOssForTokenClassification
    from seed_oss.models import SeedOssModel as SeedOssModel
    from seed_oss.models import SeedOssPreTrainedModel as SeedOssPreTrainedModel
    from seed_oss.planning.plan import plan as plan
    from seed_oss.quant.quantize import quantize_ as quantize_

__all__ = [*_HOMES, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'seed_oss' has no attribute {name!r}")
    with collector_paused():
        value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
