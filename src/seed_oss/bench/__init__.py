"""Benchmarks as programs: engines in processes of their own, in turn, on the same work, beside the hardware's limits.

`run.py` leads; `peers` holds the engines that are not ours. Nothing is imported here: an engine's process may run on an
interpreter that has neither torch nor the rest of this package's needs.
"""
