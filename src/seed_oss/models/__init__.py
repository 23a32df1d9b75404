"""The public model classes."""

from seed_oss.models.auto import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from seed_oss.models.base import SeedOssPreTrainedModel
from seed_oss.models.heads import (
    SeedOssForQuestionAnswering,
    SeedOssForSequenceClassification,
    SeedOssForTokenClassification,
)
from seed_oss.models.seed_oss import SeedOssForCausalLM, SeedOssModel

__all__ = [
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForQuestionAnswering",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "SeedOssForCausalLM",
    "SeedOssForQuestionAnswering",
    "SeedOssForSequenceClassification",
    "SeedOssForTokenClassification",
    "SeedOssModel",
    "SeedOssPreTrainedModel",
]
