"""Classes that open any checkpoint of the family: its model type says which family, the class which head."""

import os
from typing import Any, ClassVar, NoReturn

from seed_oss.config import SeedOssConfig
from seed_oss.errors import InputError
from seed_oss.models.base import SeedOssPreTrainedModel
from seed_oss.models.heads import (
    SeedOssForQuestionAnswering,
    SeedOssForSequenceClassification,
    SeedOssForTokenClassification,
)
from seed_oss.models.seed_oss import SeedOssForCausalLM, SeedOssModel


class AutoConfig:
    """Makes the config of any checkpoint. It has no instances."""

    def __init__(self, *_: Any, **__: Any) -> None:
        _refuse_instance(type(self), "from_pretrained(path_or_id) or for_model(model_type)")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """The config of a checkpoint; arguments and errors are those of `SeedOssConfig.from_pretrained`."""
        return SeedOssConfig.from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def for_model(cls, model_type: str, **fields: Any) -> SeedOssConfig:
        """A config from its fields.

        Args:
            model_type: "seed_oss".
            fields: Fields of the config.

        Raises:
            ConfigError: Another model type, or a wrong field.
        """
        return SeedOssConfig(model_type=model_type, **fields)


class _AutoModelBase:
    _model_class: ClassVar[type[SeedOssPreTrainedModel]]

    def __init__(self, *_: Any, **__: Any) -> None:
        _refuse_instance(type(self), "from_pretrained(path_or_id) or from_config(config)")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, **kwargs: Any) -> Any:
        """Load a model; arguments and errors are those of `SeedOssPreTrainedModel.from_pretrained`."""
        return cls._model_class.from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_config(
        cls,
        config: SeedOssConfig,
        *,
        dtype: Any = None,
        torch_dtype: Any = None,
        attn_implementation: str | None = None,
        trust_remote_code: bool | None = None,
    ) -> Any:
        """Make a model with random weights, in training mode.

        Args:
            config: The config; the model gets a copy.
            dtype: Of the weights, a torch dtype or its name; None takes the config's own, else torch's default.
                `torch_dtype` is the same.
            attn_implementation: "sdpa" or "eager".
            trust_remote_code: No effect.

        Raises:
            InputError: Not a SeedOssConfig, or a wrong dtype.
        """
        return cls._model_class._from_config(
            config,
            dtype=dtype,
            torch_dtype=torch_dtype,
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
        )


class AutoModel(_AutoModelBase):
    """Makes the bare decoder of any checkpoint."""

    _model_class = SeedOssModel


class AutoModelForCausalLM(_AutoModelBase):
    """Makes the language model of any checkpoint."""

    _model_class = SeedOssForCausalLM


class AutoModelForSequenceClassification(_AutoModelBase):
    """Makes a classifier of sequences of any checkpoint."""

    _model_class = SeedOssForSequenceClassification


class AutoModelForTokenClassification(_AutoModelBase):
    """Makes a classifier of tokens of any checkpoint."""

    _model_class = SeedOssForTokenClassification


class AutoModelForQuestionAnswering(_AutoModelBase):
    """Makes an answer finder of any checkpoint."""

    _model_class = SeedOssForQuestionAnswering


def _refuse_instance(cls: type[Any], how: str) -> NoReturn:
    raise InputError(f"{cls.__name__} has no instances; call {cls.__name__}.{how}")
