"""Model files: where they are, how they are opened, read, checked and replaced. No torch."""

from seed_oss.files.named_models import NAMED_MODELS
from seed_oss.files.names import check_plain_name
from seed_oss.files.opening import model_file_exists, open_model_file
from seed_oss.files.resolve import resolve_model
from seed_oss.files.safetensors_header import (
    DTYPE_BITS,
    TensorInfo,
    parse_safetensors_header,
    read_safetensors_header,
)
from seed_oss.files.strict_json import MAX_JSON_BYTES, MAX_TOKENIZER_JSON_BYTES, parse_json, read_json

__all__ = [
    "DTYPE_BITS",
    "MAX_JSON_BYTES",
    "MAX_TOKENIZER_JSON_BYTES",
    "NAMED_MODELS",
    "TensorInfo",
    "check_plain_name",
    "model_file_exists",
    "open_model_file",
    "parse_json",
    "parse_safetensors_header",
    "read_json",
    "read_safetensors_header",
    "resolve_model",
]
