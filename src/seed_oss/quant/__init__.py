"""Quantization: own schemes, and readers of foreign formats (`gguf_*`: llama.cpp's files; `foreign`: other tools')."""
