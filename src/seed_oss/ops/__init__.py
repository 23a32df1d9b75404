"""Tensor functions. Each has a readable form; fast twins stand beside it."""
