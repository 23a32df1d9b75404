"""adapter_config.json of a low-rank adapter in peft's format: what it asks for, or why it is refused. No torch."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seed_oss.errors import CheckpointError, UnsupportedModelError
from seed_oss.files import read_json
from seed_oss.files.names import short

CONFIG_FILE = "adapter_config.json"
MAX_RANK = 1024
_MAX_PATTERNS = 4096
_PLAIN_PATTERN = re.compile(r"[A-Za-z0-9_.]{1,200}")
_KEPT_BASE = (True, False, "gaussian", "eva", "orthogonal")  # others start from a base whose weights they change
_MEANINGLESS = frozenset(  # while an adapter is used, not trained
    (
        *("auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config"),
        *("inference_mode", "loftq_config", "lora_dropout", "lora_ga_config", "megatron_core", "peft_version"),
        *("qalora_group_size", "revision", "runtime_config", "task_type"),
    )
)
_READ = frozenset(
    (
        *("peft_type", "r", "lora_alpha", "target_modules", "use_rslora", "rank_pattern", "alpha_pattern", "bias"),
        *("init_lora_weights", "exclude_modules", "layers_to_transform", "layers_pattern"),
    )
)
_REMEDY = "train or save the adapter without it, or merge it into the model (merge_and_unload() in peft)"


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """What adapter_config.json says.

    Attributes:
        source: the file, for messages.
        rank: of modules that no pattern names.
        alpha: of modules that no pattern names.
        uses_rslora: scale by the root of the rank (Kalajdzievski 2023, arXiv:2312.03732).
        targets: names or ends of names of the adapted modules; None where the file leaves it to a pattern.
        ranks, alphas: of the modules whose names end so; the first that does counts.
    """

    source: str
    rank: int
    alpha: float
    uses_rslora: bool
    targets: tuple[str, ...] | None
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]

    def rank_of(self, path: str) -> int:
        """Rank of a module, `path` being its whole name."""
        return next((rank for end, rank in self.ranks.items() if _ends_with(path, end)), self.rank)

    def scaling_of(self, path: str) -> float:
        """What its product is multiplied by."""
        alpha = next((alpha for end, alpha in self.alphas.items() if _ends_with(path, end)), self.alpha)
        rank = self.rank_of(path)
        return alpha / (math.sqrt(rank) if self.uses_rslora else rank)

    def wants(self, path: str) -> bool | None:
        """Whether a module is to be adapted; None where only the tensors can tell."""
        return None if self.targets is None else any(_ends_with(path, end) for end in self.targets)


def read_lora_settings(folder: str | Path) -> LoraSettings:
    """Read and check adapter_config.json.

    Raises:
        CheckpointError: a field has a wrong type or value.
        UnsupportedModelError: another kind of adapter, or a setting that is not implemented.
        MissingFileError, UnsafeFileError: there is no such file, or it must not be opened.
    """
    source, fields = str(Path(folder) / CONFIG_FILE), read_json(folder, CONFIG_FILE)
    _check_kind(fields, source)
    return LoraSettings(
        source=source,
        rank=_rank(fields.get("r", 8), "r", source),
        alpha=_alpha(fields.get("lora_alpha", 8), "lora_alpha", source),
        uses_rslora=_flag(fields.get("use_rslora", False), "use_rslora", source),
        targets=_targets(fields, source),
        ranks={
            end: _rank(one, f"rank_pattern[{end!r}]", source) for end, one in _pattern(fields, "rank_pattern", source)
        },
        alphas={
            end: _alpha(one, f"alpha_pattern[{end!r}]", source)
            for end, one in _pattern(fields, "alpha_pattern", source)
        },
    )


def _check_kind(fields: Mapping[str, Any], source: str) -> None:
    if fields.get("peft_type") != "LORA":
        raise UnsupportedModelError(
            f"{source}: peft_type is {short(fields.get('peft_type'))}; only 'LORA' is served: {_REMEDY}"
        )
    if fields.get("bias", "none") != "none":
        raise UnsupportedModelError(f"{source}: bias is {short(fields['bias'])}; only 'none' is served: {_REMEDY}")
    start = fields.get("init_lora_weights", True)
    if not any(start is one or (isinstance(start, str) and start == one) for one in _KEPT_BASE):
        raise UnsupportedModelError(
            f"{source}: init_lora_weights is {short(start)}, which changes the base model's weights; save the adapter "
            "with path_initial_model_for_weight_conversion in peft, or merge it"
        )
    for name, value in fields.items():
        if name not in _MEANINGLESS and name not in _READ and value not in (None, False, [], {}):
            raise UnsupportedModelError(f"{source}: {short(name)} is {short(value)}, which is not served: {_REMEDY}")


def _rank(value: object, name: str, source: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_RANK:
        raise CheckpointError(f"{source}: {name} is {short(value)}; a rank is a whole number from 1 to {MAX_RANK}")
    return value


def _alpha(value: object, name: str, source: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= 1e6:
        raise CheckpointError(f"{source}: {name} is {short(value)}; it must be a number of at most 1000000")
    return float(value)


def _flag(value: object, name: str, source: str) -> bool:
    if not isinstance(value, bool):
        raise CheckpointError(f"{source}: {name} is {short(value)}; it must be true or false")
    return value


def _targets(fields: Mapping[str, Any], source: str) -> tuple[str, ...] | None:
    """The list, where there is one and nothing takes modules out of it again."""
    value = fields.get("target_modules")
    if isinstance(value, str):  # a regular expression of somebody else's: it is not run
        return None
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value) or len(value) > _MAX_PATTERNS:
        raise CheckpointError(f"{source}: target_modules is {short(value)}; it must be a list of module names")
    is_narrowed = any(fields.get(name) is not None for name in ("exclude_modules", "layers_to_transform"))
    return None if is_narrowed else tuple(value)


def _pattern(fields: Mapping[str, Any], name: str, source: str) -> list[tuple[str, Any]]:
    value: Any = fields.get(name) or {}
    if not isinstance(value, dict) or len(value) > _MAX_PATTERNS:
        raise CheckpointError(f"{source}: {name} is {short(value)}; it must map module names to numbers")
    strange = next((end for end in value if not _PLAIN_PATTERN.fullmatch(end)), None)
    if strange is not None:
        raise UnsupportedModelError(
            f"{source}: {name} has the key {short(strange)}; only plain module names are served, no regular "
            "expressions: write the names out"
        )
    return list(value.items())


def _ends_with(path: str, end: str) -> bool:
    return path == end or path.endswith(f".{end}")
