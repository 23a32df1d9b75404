"""Rotary position parameters: both written forms read into one, filled in and checked.

The 4.x form is `rope_theta` + `rope_scaling` (with `type` or `rope_type`), the 5.x form is `rope_parameters`. The
result is always the 5.x form with `rope_type` and `rope_theta`. Priorities and fill-ins are those of transformers 5.23
(modeling_rope_utils.py: convert_rope_params_to_dict, standardize_rope_params); where 5.23 only warns, we refuse.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, cast

from seed_oss.config.fields import (
    MAX_SIZE,
    Check,
    as_float,
    boolean,
    integer,
    list_of,
    number,
    optional,
    refuse,
    shown,
    text,
)
from seed_oss.errors import ConfigError

DEFAULT_THETA = 10_000.0

_FACTOR = number(1.0)
_POSITIVE = number(0.0, above=True)
_ROTATIONS = number(1e-6, 1e6)  # their logarithms are taken
_LENGTH = integer(1)
_PARTIAL = number(0.0, 1.0)
_ORIGINAL: dict[str, Check] = {"original_max_position_embeddings": _LENGTH}


@dataclass(frozen=True, slots=True)
class _RopeType:
    required: dict[str, Check]
    optional: dict[str, Check]
    filled: dict[str, Check] = field(default_factory=dict[str, Check])  # always there, from the config if not given


ROPE_TYPES: dict[str, _RopeType] = {
    "default": _RopeType({}, {}),
    "linear": _RopeType({"factor": _FACTOR}, _ORIGINAL),
    "dynamic": _RopeType({"factor": _FACTOR}, _ORIGINAL),
    "yarn": _RopeType(
        {"factor": optional(_FACTOR)},
        {
            "attention_factor": optional(_POSITIVE),
            "beta_fast": optional(_ROTATIONS),
            "beta_slow": optional(_ROTATIONS),
            "mscale": optional(number(0.0)),
            "mscale_all_dim": optional(number(0.0)),
            "truncate": boolean,
        },
        filled=_ORIGINAL,
    ),
    "longrope": _RopeType(
        {"short_factor": list_of(_POSITIVE), "long_factor": list_of(_POSITIVE)},
        {"factor": optional(_FACTOR), "attention_factor": optional(_POSITIVE)},
        filled=_ORIGINAL,
    ),
    "llama3": _RopeType(
        {"factor": _FACTOR, "low_freq_factor": _POSITIVE, "high_freq_factor": _POSITIVE},
        {},
        filled=_ORIGINAL,
    ),
    "proportional": _RopeType({}, {"partial_rotary_factor": _PARTIAL, "factor": _POSITIVE}),
}
"""Parameters of every RoPE type beside rope_type and rope_theta, with their checks."""

_COMMON_PARAMETERS: dict[str, Check] = {
    "rope_type": text,
    "type": text,
    "rope_theta": _POSITIVE,
    "partial_rotary_factor": _PARTIAL,  # only proportional uses it
}


@dataclass(frozen=True, slots=True)
class RopeInputs:
    """Everything a config says about rotary positions, as written.

    Args:
        rope_scaling: the 4.x object; wins over rope_parameters, as in 5.23.
        rope_parameters: the 5.x object.
        rope_theta: base of the config itself; used where the object has none.
        partial_rotary_factor: fraction of the config itself; used where the object has none.
        original_max_position_embeddings: length in tokens of the config itself; wins over the object's.
    """

    rope_scaling: Any = None
    rope_parameters: Any = None
    rope_theta: Any = DEFAULT_THETA
    partial_rotary_factor: Any = None
    original_max_position_embeddings: Any = None


def standardize_rope(given: RopeInputs, max_position_embeddings: int) -> dict[str, Any]:
    """Bring both written forms into one 5.x `rope_parameters` with the fill-ins of transformers 5.23.

    Args:
        given: what the config says.
        max_position_embeddings: longest position count in tokens, used for fill-ins.

    Returns:
        A new dict with at least `rope_type` and `rope_theta`.

    Raises:
        ConfigError: an unknown type, or a parameter that is missing or wrong.
    """
    name = "rope_scaling" if given.rope_scaling else "rope_parameters"
    rope = _as_object(name, given.rope_scaling or given.rope_parameters)
    _warn_of_contradiction(given)
    rope["rope_type"] = _rope_type(name, rope)
    rope.setdefault("rope_theta", given.rope_theta)
    if given.partial_rotary_factor is not None:
        rope.setdefault("partial_rotary_factor", given.partial_rotary_factor)
    if ROPE_TYPES[rope["rope_type"]].filled:
        _fill_original(rope, given.original_max_position_embeddings, max_position_embeddings)
    _check_parameters(name, rope)
    return rope


def check_rope(rope: dict[str, Any], *, head_dim: int, max_position_embeddings: int) -> None:
    """Check standardized parameters again, and against the sizes of the model.

    Args:
        rope: result of `standardize_rope`, perhaps changed since.
        head_dim: elements per head.
        max_position_embeddings: longest position count in tokens.

    Raises:
        ConfigError: a parameter is missing, wrong, or does not fit the sizes.
    """
    rope_type = _rope_type("rope_parameters", rope)
    _check_parameters("rope_parameters", dict(rope))
    if head_dim % 2:
        refuse("head_dim", head_dim, "even: rotary positions turn pairs of elements")
    _check_partial(rope)
    check = _TYPE_CHECKS.get(rope_type)
    if check is not None:
        check(rope, head_dim)
    if rope_type == "yarn" and rope["factor"] is None and max_position_embeddings < _original(rope):
        raise ConfigError(
            f"rope_parameters.factor is null, which means max_position_embeddings ({max_position_embeddings}) / "
            f"original_max_position_embeddings ({_original(rope)}); that must be at least 1, so give factor"
        )


def repeats_original_length(given: RopeInputs, config_keys: Mapping[str, Any]) -> bool:
    """Whether the config says the same `original_max_position_embeddings` as its rotary object, as our files do."""
    key = "original_max_position_embeddings"
    rope = _as_object("rope_parameters", given.rope_scaling or given.rope_parameters)
    return key in rope and rope[key] == config_keys.get(key)


def _original(rope: dict[str, Any]) -> int:
    return rope["original_max_position_embeddings"]


def _as_object(name: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in cast("Mapping[Any, Any]", value)):
        refuse(name, cast("object", value), "an object of named parameters, or null")
    return dict(cast("Mapping[str, Any]", value))


def _warn_of_contradiction(given: RopeInputs) -> None:
    if not given.rope_scaling or not given.rope_parameters:
        return
    scaling = _as_object("rope_scaling", given.rope_scaling)
    parameters = _as_object("rope_parameters", given.rope_parameters)
    differing = sorted(key for key in scaling if key in parameters and scaling[key] != parameters[key])
    if differing:
        key = differing[0]
        warnings.warn(
            f"rope_scaling and rope_parameters disagree on {', '.join(differing)} ({key}: {shown(scaling[key])} and "
            f"{shown(parameters[key])}); rope_scaling is used, as in transformers. Remove one of the two",
            stacklevel=2,
        )


def _rope_type(name: str, rope: dict[str, Any]) -> str:
    old, new = rope.get("type", "default"), rope.get("rope_type", rope.get("type", "default"))
    if "type" in rope and old != new:
        raise ConfigError(
            f"{name} has type {shown(old)} and rope_type {shown(new)}; they are two names of one parameter, keep one"
        )
    if not isinstance(new, str) or new not in ROPE_TYPES:
        refuse(f"{name}.rope_type", new, "one of " + ", ".join(repr(known) for known in ROPE_TYPES))
    return new


def _fill_original(rope: dict[str, Any], of_config: Any, max_position_embeddings: int) -> None:
    if of_config is not None:
        rope["original_max_position_embeddings"] = of_config
    else:
        rope.setdefault("original_max_position_embeddings", max_position_embeddings)


def _check_parameters(name: str, rope: dict[str, Any]) -> None:
    """Check every parameter by its type's table and store it in canonical form."""
    rope_type = rope["rope_type"]
    spec = ROPE_TYPES[rope_type]
    for key in (*spec.required, *spec.filled):
        if key not in rope:
            _missing(name, key, rope_type)
    for key in ("partial_rotary_factor",) if rope_type != "proportional" else ("partial_rotary_factor", "factor"):
        if key in rope and rope[key] is None:
            del rope[key]
    checks: dict[str, Check] = {**_COMMON_PARAMETERS, **spec.required, **spec.optional, **spec.filled}
    for key, value in rope.items():
        if key not in checks:
            _unknown(name, key, rope_type, value, checks)
        rope[key] = checks[key](f"{name}.{key}", value)


def _missing(name: str, key: str, rope_type: str) -> NoReturn:
    raise ConfigError(f"{name}.{key} is missing; rope_type {rope_type!r} needs it")


def _unknown(name: str, key: str, rope_type: str, value: Any, checks: dict[str, Check]) -> NoReturn:
    allowed = ", ".join(sorted(set(checks) - {"type"}))
    raise ConfigError(
        f"{name}.{shown(key)[1:-1]} is {shown(value)}, but rope_type {rope_type!r} has no such parameter; "
        f"allowed are {allowed}. Remove it or set the rope_type that uses it"
    )


def _check_partial(rope: dict[str, Any]) -> None:
    partial = rope.get("partial_rotary_factor")
    if partial is None or partial == 1 or rope["rope_type"] in ("default", "proportional"):
        return
    raise ConfigError(
        f"partial_rotary_factor is {shown(partial)} with rope_type {rope['rope_type']!r}; it must be 1 there (the "
        "reference cannot run it). Only 'proportional' rotates part of a head"
    )


def _check_dynamic(rope: dict[str, Any], head_dim: int) -> None:
    if head_dim == 2:
        refuse("head_dim", head_dim, "at least 4 with rope_type 'dynamic', which divides by head_dim - 2")


def _check_yarn(rope: dict[str, Any], head_dim: int) -> None:
    if rope["rope_theta"] <= 1:
        refuse("rope_parameters.rope_theta", rope["rope_theta"], "greater than 1 with rope_type 'yarn'")
    fast, slow = rope.get("beta_fast") or 32.0, rope.get("beta_slow") or 1.0
    if fast < slow:
        refuse("rope_parameters.beta_fast", fast, f"at least beta_slow, which is {slow:g}")


def _check_longrope(rope: dict[str, Any], head_dim: int) -> None:
    for key in ("short_factor", "long_factor"):
        if len(rope[key]) != head_dim // 2:
            raise ConfigError(
                f"rope_parameters.{key} has {len(rope[key])} numbers; it must have {head_dim // 2}, half of head_dim"
            )
    original = _original(rope)
    if original < 2 and rope.get("attention_factor") is None:
        refuse("rope_parameters.original_max_position_embeddings", original, f"an integer from 2 to {MAX_SIZE}")


def _check_llama3(rope: dict[str, Any], head_dim: int) -> None:
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    if as_float(high - low) is None or high <= low:
        refuse("rope_parameters.high_freq_factor", high, f"greater than low_freq_factor, which is {low:g}")


_TYPE_CHECKS: dict[str, Callable[[dict[str, Any], int], None]] = {
    "dynamic": _check_dynamic,
    "yarn": _check_yarn,
    "longrope": _check_longrope,
    "llama3": _check_llama3,
}
