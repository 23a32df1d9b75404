"""Which stored tensor fills which parameter: decided from names, shapes and dtypes alone.

stored                          parameter                       how
model.layers.0...               transformer.layers.0...         base tensors match under every prefix
embed_tokens.weight             model.embed_tokens.weight
lm_head.weight                  (a class without it)            another head: skipped
(nothing)                       score.weight                    new head: initialised
...rotary_emb.inv_freq                                          old buffers: ignored
everything else that has no partner                             a problem, reported with all others
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from seed_oss.errors import CheckpointError, UnsupportedModelError
from seed_oss.files.names import escaped
from seed_oss.weights.dtypes import WEIGHT_DTYPES, dtype_name
from seed_oss.weights.source import TensorSpec

MAX_LISTED = 8
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class LoadRules:
    """What may differ between a checkpoint and the model it is loaded into.

    Args:
        prefixes: What names of the model under the head may start with.
        heads: First components of the names of all heads.
        new_head: A head that is not in the checkpoint may be initialised.
        ignore_mismatched_sizes: Parameters of another shape may be initialised, too.
        num_layers_kept: Layers of the checkpoint from this one on are skipped; None skips none.
    """

    prefixes: Sequence[str] = ()
    heads: Collection[str] = ()
    new_head: bool = False
    ignore_mismatched_sizes: bool = False
    num_layers_kept: int | None = None


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What to load and what else to do.

    Attributes:
        sources: Parameter name -> name of the stored tensor.
        new: Parameters to initialise because the checkpoint has no such head.
        skipped: Stored tensors that are not used.
        mismatched: (parameter, stored shape, its shape) of those to initialise because the shapes differ.
    """

    sources: dict[str, str]
    new: tuple[str, ...]
    skipped: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]


@dataclass(slots=True)
class _Problems:
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    wrong_dtype: list[str] = field(default_factory=list)


def plan_load(
    expected: Mapping[str, TensorSpec],
    shared: Iterable[Sequence[str]],
    stored: Mapping[str, TensorSpec],
    rules: LoadRules,
    *,
    where: str,
    model_name: str,
) -> LoadPlan:
    """Match stored tensors with parameters.

    Args:
        expected: Parameter name -> dtype and shape, shared parameters under each of their names.
        shared: Groups of names of one and the same parameter; one of them in the checkpoint is enough.
        stored: Tensor name -> dtype and shape.
        rules: What may differ.
        where: Name of the checkpoint, for messages.
        model_name: Name of the model class, for messages.

    Raises:
        CheckpointError: Missing, unexpected or mis-shaped tensors, or wrong dtypes; all are in one message.
        UnsupportedModelError: Tensors are stored in an 8-bit floating format, and nothing says in which way.
    """
    _refuse_quantized(stored, where)
    problems = _Problems()
    sources, leftover = _match_names(expected, stored, rules)
    skipped = [name for name in leftover if _may_skip(name, rules)]
    problems.unexpected = [name for name in leftover if name not in set(skipped)]
    mismatched = _check_matches(expected, stored, sources, rules, problems)
    absent = _absent(expected, shared, sources, [name for name, *_ in mismatched])
    new = [name for name in absent if rules.new_head and _component(name) in rules.heads]
    problems.missing = [f"{name} {list(expected[name].shape)}" for name in absent if name not in set(new)]
    _raise_if_any(problems, where, model_name)
    return LoadPlan(sources, tuple(new), tuple(skipped), tuple(mismatched))


def num_stored_layers(names: Iterable[str]) -> int:
    """How many different decoder layers the names of a checkpoint belong to."""
    matches = (_LAYER.search(name) for name in names)
    return len({match.group(1) for match in matches if match})


def _match_names(
    expected: Mapping[str, TensorSpec], stored: Mapping[str, TensorSpec], rules: LoadRules
) -> tuple[dict[str, str], list[str]]:
    """(parameter -> stored name, stored names without a partner). A name that fits as it is wins over a mapped one."""
    bare = _bare_name(rules)
    by_bare_name = {bare(name): name for name in expected}
    sources = {name: name for name in stored if name in expected}
    leftover: list[str] = []
    for name in stored:
        if name in sources or name == "inv_freq" or name.endswith(".inv_freq"):
            continue
        parameter = by_bare_name.get(bare(name))
        if parameter is None or parameter in sources:
            leftover.append(name)
        else:
            sources[parameter] = name
    order = {name: position for position, name in enumerate(stored)}
    return dict(sorted(sources.items(), key=lambda item: order[item[1]])), leftover


def _bare_name(rules: LoadRules) -> Callable[[str], str]:
    def bare(name: str) -> str:
        for prefix in rules.prefixes:
            if name.startswith(prefix):
                return name[len(prefix) :]
        return name

    return bare


def _may_skip(name: str, rules: LoadRules) -> bool:
    if _component(name) in rules.heads:
        return True
    layer = _LAYER.search(name)
    return rules.num_layers_kept is not None and layer is not None and int(layer.group(1)) >= rules.num_layers_kept


def _check_matches(
    expected: Mapping[str, TensorSpec],
    stored: Mapping[str, TensorSpec],
    sources: dict[str, str],
    rules: LoadRules,
    problems: _Problems,
) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Compare shapes and dtypes; those that are to be initialised leave `sources`."""
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []
    for name, stored_name in list(sources.items()):
        have, want = stored[stored_name], expected[name]
        if have.shape != want.shape and rules.ignore_mismatched_sizes:
            mismatched.append((name, have.shape, want.shape))
            del sources[name]
        elif have.shape != want.shape:
            problems.mismatched.append(f"{stored_name} is {list(have.shape)}, the model needs {list(want.shape)}")
        elif not _fits(have.dtype, want.dtype):
            problems.wrong_dtype.append(f"{stored_name} is {dtype_name(have.dtype)}")
    return mismatched


def _fits(stored: torch.dtype, wanted: torch.dtype) -> bool:
    return stored in WEIGHT_DTYPES if wanted.is_floating_point else stored == wanted


def _absent(
    expected: Mapping[str, TensorSpec], shared: Iterable[Sequence[str]], sources: Mapping[str, str], ignored: list[str]
) -> list[str]:
    """Parameters that nothing fills, under one of their names."""
    filled = {*sources, *ignored}
    for names in shared:
        filled.update(names if filled.intersection(names) else names[1:])
    return [name for name in expected if name not in filled]


def _component(name: str) -> str:
    return name.partition(".")[0]


def _refuse_quantized(stored: Mapping[str, TensorSpec], where: str) -> None:
    for name, spec in stored.items():
        if spec.dtype.is_floating_point and spec.dtype.itemsize == 1:
            raise UnsupportedModelError(
                f"{where}: {name} is stored as {dtype_name(spec.dtype)}, and config.json has no quantization_config "
                "that says how fp8 weights are scaled; fetch the config.json that belongs to them, or load a bfloat16, "
                "float16 or float32 checkpoint"
            )


def _raise_if_any(problems: _Problems, where: str, model_name: str) -> None:
    parts = [
        _listed("missing", problems.missing),
        _listed("unexpected", problems.unexpected),
        _listed("of another shape", problems.mismatched),
        _listed("of a dtype that is not a weight's", problems.wrong_dtype),
    ]
    if not any(parts):
        return
    remedy = "check that config.json and the weights belong together"
    if problems.mismatched:
        remedy += ", or pass ignore_mismatched_sizes=True to initialise tensors of another shape anew"
    raise CheckpointError(f"{where} does not fit {model_name}:\n" + "\n".join(filter(None, parts)) + f"\n{remedy}")


def _listed(what: str, items: Sequence[str]) -> str:
    return f"  {what}: {listed_names(items)}" if items else ""


def listed_names(items: Sequence[str], limit: int = MAX_LISTED) -> str:
    """The first items and how many more there are."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(escaped(item if len(item) <= 200 else item[:200] + "...") for item in items[:limit]) + more
