"""Names that stand for a model which is not a folder or a hub id.

The value is "module:function", looked up when the name is used, so that this layer does not import the one above it;
the function takes no arguments and returns the folder of the converted checkpoint.
"""

NAMED_MODELS = {"demo": "seed_oss.weights.demo:prepare"}

NAMED_FILES = {"demo-int4": "seed_oss.weights.demo:packed"}
"""Likewise: the function returns a GGUF file, whose blocks stay what they are."""

GGUF_TEXTS = "seed_oss.quant.gguf_texts:texts_of_file"
"""Likewise: makes the texts of a checkpoint folder (config.json, tokenizer.json, ...) from a GGUF file."""
