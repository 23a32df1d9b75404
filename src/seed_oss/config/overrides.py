"""Keyword arguments of from_dict and from_pretrained laid over the content of a config file."""

from collections.abc import Collection, Mapping
from typing import Any, cast

_ROPE_OBJECTS = ("rope_scaling", "rope_parameters")


def split_overrides(
    fields: Mapping[str, Any], kwargs: Mapping[str, Any], *, known: Collection[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part kwargs into those that replace fields and those that are no fields.

    Args:
        fields: content of the file; its keys count as fields.
        kwargs: what the caller gave. `dtype="auto"` (the file's own) is in neither result.
        known: names of fields.

    Returns:
        `(overrides, unused)`.
    """
    given = {key: value for key, value in kwargs.items() if not (key in ("dtype", "torch_dtype") and value == "auto")}
    overrides = {key: value for key, value in given.items() if key in known or key in fields}
    unused = {key: value for key, value in given.items() if key not in overrides}
    return overrides, unused


def merge_overrides(fields: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with overrides laid over them; what an override contradicts under another name is taken out."""
    merged = dict(fields)
    if overrides.keys() & {"dtype", "torch_dtype"}:
        merged.pop("dtype", None)
        merged.pop("torch_dtype", None)
    _clear_labels(merged, overrides)
    _clear_rope(merged, overrides)
    return {**merged, **overrides}


def _clear_labels(merged: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    if "id2label" in overrides:
        merged.pop("num_labels", None)
        merged.pop("label2id", None)
    elif "num_labels" in overrides and isinstance(merged.get("id2label"), dict):
        if len(cast("dict[Any, Any]", merged["id2label"])) == overrides["num_labels"]:
            return
        merged.pop("id2label")
        merged.pop("label2id", None)


def _clear_rope(merged: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """Make room for rotary parameters: a new object replaces both old ones but keeps their base."""
    objects = {name: dict(cast("dict[str, Any]", merged[name])) for name in _ROPE_OBJECTS if _is_object(merged, name)}
    merged.update(objects)
    if overrides.keys() & set(_ROPE_OBJECTS):
        for name, rope in reversed(objects.items()):  # rope_scaling last: it wins, as on reading
            if "rope_theta" in rope:
                merged["rope_theta"] = rope["rope_theta"]
            _drop_if_equal(merged, rope, "original_max_position_embeddings")
            del merged[name]
    for rope in objects.values():
        for key in ("rope_theta", "partial_rotary_factor"):
            if key in overrides:
                rope.pop(key, None)


def _is_object(merged: Mapping[str, Any], name: str) -> bool:
    return isinstance(merged.get(name), dict) and bool(merged[name])


def _drop_if_equal(merged: dict[str, Any], rope: Mapping[str, Any], key: str) -> None:
    """Our own files repeat this key beside longrope for 4.57; there it belongs to the object being replaced."""
    if key in rope and merged.get(key) == rope[key]:
        merged.pop(key, None)
