"""Weights: headers checked, tensors streamed in, sharded files written."""

from seed_oss.weights.dtypes import dtype_name, weight_dtype
from seed_oss.weights.load import Target, expected_tensors, load_weights, shared_names
from seed_oss.weights.meta import on_meta_device
from seed_oss.weights.plan import LoadPlan, LoadRules, listed_names, num_stored_layers, plan_load
from seed_oss.weights.save import save_tensors, size_in_bytes, tensor_pieces, tensor_spec
from seed_oss.weights.source import CheckpointSource, StateDictSource, TensorSpec, WeightSource

__all__ = [
    "CheckpointSource",
    "LoadPlan",
    "LoadRules",
    "StateDictSource",
    "Target",
    "TensorSpec",
    "WeightSource",
    "dtype_name",
    "expected_tensors",
    "listed_names",
    "load_weights",
    "num_stored_layers",
    "on_meta_device",
    "plan_load",
    "save_tensors",
    "shared_names",
    "size_in_bytes",
    "tensor_pieces",
    "tensor_spec",
    "weight_dtype",
]
