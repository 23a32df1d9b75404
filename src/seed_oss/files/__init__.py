"""Model files: where they are, how they are opened, read, checked and replaced. No torch."""

from seed_oss.files.commit import DirectoryCommit, write_model_file
from seed_oss.files.json_files import read_json
from seed_oss.files.named_models import NAMED_MODELS
from seed_oss.files.names import check_plain_name
from seed_oss.files.opening import model_file_exists, open_model_file
from seed_oss.files.resolve import gguf_file, gguf_texts, resolve_model
from seed_oss.files.safetensors_header import (
    DTYPE_BITS,
    TensorInfo,
    parse_safetensors_header,
    read_safetensors_header,
)
from seed_oss.files.strict_json import MAX_JSON_BYTES, MAX_TOKENIZER_JSON_BYTES, parse_json
from seed_oss.files.weight_map import INDEX_FILE, SINGLE_FILE, is_weight_file, read_weight_map

__all__ = [
    "DTYPE_BITS",
    "DirectoryCommit",
    "INDEX_FILE",
    "MAX_JSON_BYTES",
    "MAX_TOKENIZER_JSON_BYTES",
    "NAMED_MODELS",
    "SINGLE_FILE",
    "TensorInfo",
    "check_plain_name",
    "gguf_file",
    "gguf_texts",
    "is_weight_file",
    "model_file_exists",
    "open_model_file",
    "parse_json",
    "parse_safetensors_header",
    "read_json",
    "read_safetensors_header",
    "read_weight_map",
    "resolve_model",
    "write_model_file",
]
