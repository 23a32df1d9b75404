"""Quantization: readers of foreign formats. `gguf_*` read llama.cpp's GGUF files."""
