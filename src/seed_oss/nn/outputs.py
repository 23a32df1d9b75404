"""What the models return: named fields that also read as a dict, by index, and as a tuple."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch.utils._pytree as pytree
from torch import Tensor

from seed_oss.cache import Cache


class Deferred:
    """A field computed when it is first looked at.

    Args:
        compute: called once; its result takes this object's place.
    """

    def __init__(self, compute: Callable[[], Any]) -> None:
        self.compute = compute


class ModelOutput(OrderedDict[str, Any]):
    """Fields by attribute, key or index; fields that are None are absent from dict and tuple.

    Args:
        fields: a mapping or pairs of field names and values, or the values in the order of the fields.
        named: the values by name.

    Raises:
        TypeError: a name that is no field.
    """

    fields: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.fields = tuple(name for name in cls.__annotations__ if name != "fields")
        pytree.register_pytree_node(
            cls, _flatten, _unflatten_to(cls), serialized_type_name=f"{cls.__module__}.{cls.__qualname__}"
        )

    def __init__(self, *fields: Any, **named: Any) -> None:
        super().__init__()
        if len(fields) == 1 and (isinstance(fields[0], Mapping) or _is_pairs(fields[0])):
            given = dict(fields[0])
        else:
            given = dict(zip(self.fields, fields, strict=False))
        given.update(named)
        unknown = [name for name in given if name not in self.fields]
        if unknown or len(fields) > max(len(self.fields), 1):
            raise TypeError(f"{type(self).__name__} has the fields {self.fields}, got {unknown or len(fields)}")
        for name in self.fields:
            if given.get(name) is not None:
                super().__setitem__(name, given[name])

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            value = super().__getitem__(key)
            if isinstance(value, Deferred):
                value = value.compute()
                super().__setitem__(key, value)
            return value
        names = list(self.keys())[key]
        return self[names] if isinstance(names, str) else tuple(self[name] for name in names)

    def __getattr__(self, name: str) -> Any:
        if name in type(self).fields:
            return self.get(name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.fields:
            super().__setattr__(name, value)
        elif value is not None:
            super().__setitem__(name, value)
        elif name in self:
            del self[name]

    def get(self, key: str, default: Any = None) -> Any:
        """The field `key`, or `default` where it is absent."""
        return self[key] if key in self else default  # noqa: SIM401 - this is what get does

    def values(self) -> Any:
        """The fields that are present."""
        return [self[name] for name in self.keys()]

    def items(self) -> Any:
        """Names and values of the fields that are present."""
        return [(name, self[name]) for name in self.keys()]

    def __iter__(self) -> Iterator[str]:
        return iter(list(super().__iter__()))

    def copy(self) -> "ModelOutput":
        """A shallow copy."""
        return type(self)(dict(self.items()))

    def __reduce__(self) -> Any:
        return type(self), (dict(self.items()),)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={OrderedDict.__getitem__(self, name)!r}" for name in self.keys())
        return f"{type(self).__name__}({shown})"

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are present, in order."""
        return tuple(self.values())


def _is_pairs(value: Any) -> bool:
    if isinstance(value, (str, Tensor)) or not hasattr(value, "__iter__"):
        return False
    return hasattr(value, "__next__") or (len(value) > 0 and all(_is_pair(pair) for pair in value))


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str)


def _flatten(output: ModelOutput) -> tuple[list[Any], list[str]]:
    return list(output.values()), list(output.keys())


def _unflatten_to(cls: type[ModelOutput]) -> Callable[[Any, Any], ModelOutput]:
    def unflatten(values: Any, names: Any) -> ModelOutput:
        return cls(dict(zip(names, values, strict=True)))

    return unflatten


class BaseModelOutputWithPast(ModelOutput):
    """Last hidden states `[batch, length, hidden_size]`, cache, and what else was asked for."""

    last_hidden_state: Tensor
    past_key_values: Cache | None
    hidden_states: tuple[Tensor | None, ...] | None
    attentions: tuple[Tensor, ...] | None


class CausalLMOutputWithPast(ModelOutput):
    """Loss, logits `[batch, kept positions, vocab_size]`, cache, and what else was asked for."""

    loss: Tensor | None
    logits: Tensor
    past_key_values: Cache | None
    hidden_states: tuple[Tensor | None, ...] | None
    attentions: tuple[Tensor, ...] | None


class SequenceClassifierOutputWithPast(ModelOutput):
    """Loss, logits `[batch, num_labels]`, cache, and what else was asked for."""

    loss: Tensor | None
    logits: Tensor
    past_key_values: Cache | None
    hidden_states: tuple[Tensor | None, ...] | None
    attentions: tuple[Tensor, ...] | None


class TokenClassifierOutput(ModelOutput):
    """Loss, logits `[batch, length, num_labels]`, and what else was asked for."""

    loss: Tensor | None
    logits: Tensor
    hidden_states: tuple[Tensor | None, ...] | None
    attentions: tuple[Tensor, ...] | None


class QuestionAnsweringModelOutput(ModelOutput):
    """Loss, start and end logits `[batch, length]` each, and what else was asked for."""

    loss: Tensor | None
    start_logits: Tensor
    end_logits: Tensor
    hidden_states: tuple[Tensor | None, ...] | None
    attentions: tuple[Tensor, ...] | None
