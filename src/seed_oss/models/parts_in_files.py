"""The parts of a model for calibration, each read from the files of a checkpoint when its turn comes."""

import warnings
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Self, final

import torch
from torch import Tensor, nn

from seed_oss.config import SeedOssConfig
from seed_oss.models.quantized_shards import class_of, matched
from seed_oss.nn import SeedOssDecoderLayer
from seed_oss.nn.quantized_linear import stored_tensors
from seed_oss.quant.calibration import ModelParts, base_prefix
from seed_oss.weights import CheckpointSource, WeightSource, on_meta_device, shared_names
from seed_oss.weights.load import assign

ROWS_AT_ONCE = 4096


@final
class PartsInFiles(ModelParts):
    """See `ModelParts`; `model` is on the meta device, but for its rotary buffers. Numbers are what loading in fp32
    gives.

    Args:
        model: plain, in eval mode, on the meta device.
        source: what is stored.
        sources: name in the model -> name in the source, shared tensors under each of their names.
    """

    def __init__(self, model: Any, source: WeightSource, sources: Mapping[str, str]) -> None:
        self.model = model
        self._source, self._sources = source, sources
        model.reset_buffers("cpu")

    @classmethod
    def of(cls, folder: Path, config: SeedOssConfig) -> Self:
        """The parts of a checkpoint.

        Args:
            folder: of plain weights.
            config: its config; where embedding and head differ although it says that they are tied, it is changed.

        Raises:
            CheckpointError: it lacks tensors of its class, or is damaged.
        """
        source = CheckpointSource(folder)
        with on_meta_device():
            model: Any = class_of(config)(config)
        found = cls(model.eval(), source, dict(matched(model, source).sources))
        separate = found._share()
        if not separate:
            return found
        warnings.warn(
            f"{', '.join(separate)} differs from the parameter that tie_word_embeddings says it is; both are kept as "
            "stored and tie_word_embeddings is now False",
            stacklevel=3,
        )
        config.tie_word_embeddings = False
        return cls.of(folder, config)

    def _share(self) -> list[str]:
        """Give every name of a shared tensor its place in the source; returns names that hold something else."""
        sources = dict(self._sources)
        for names in shared_names(self.model):
            first, *others = [name for name in names if name in sources]
            separate = [name for name in others if not _is_same(self.as_stored(first), self.as_stored(name))]
            if separate:
                return separate
            sources.update(dict.fromkeys(names, sources[first]))
        self._sources = sources
        return []

    def embedding(self) -> Tensor:
        """Read as it is stored."""
        return self.as_stored(f"{base_prefix(self.model)}embed_tokens.weight")

    def layer(self, index: int) -> SeedOssDecoderLayer:
        """Read into fp32."""
        found: Any = self._filled(f"{base_prefix(self.model)}layers.{index}")
        return found

    def norm(self) -> nn.Module:
        """Read into fp32."""
        return self._filled(f"{base_prefix(self.model)}norm")

    def head(self) -> Tensor:
        """Read as it is stored."""
        return self.as_stored("lm_head.weight")

    def read(self, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor, by its name in the model.

        Raises:
            CheckpointError: a file was changed, or ends early.
        """
        stored = self._sources[name]
        found = torch.empty(self._source.specs[stored].shape, dtype=dtype, device="cpu")
        with self._source.opened([stored]):
            self._source.read_into(stored, found)
        return found

    def as_stored(self, name: str) -> Tensor:
        """A tensor in the dtype that it is stored in, but not wider than fp32."""
        dtype = self._source.specs[self._sources[name]].dtype
        return self.read(name, dtype if dtype.itemsize <= torch.float32.itemsize else torch.float32)

    def num_bytes(self, name: str) -> int:
        """Bytes of a tensor as it is stored."""
        return self._source.specs[self._sources[name]].num_bytes

    def _filled(self, name: str) -> nn.Module:
        module = deepcopy(self.model.get_submodule(name))
        for leaf in stored_tensors(module):
            assign(module, leaf, self.read(f"{name}.{leaf}"))
        return module


def _is_same(first: Tensor, second: Tensor) -> bool:
    pairs = zip(first.split(ROWS_AT_ONCE), second.split(ROWS_AT_ONCE), strict=True)
    return all(torch.equal(one.float(), other.float()) for one, other in pairs)
