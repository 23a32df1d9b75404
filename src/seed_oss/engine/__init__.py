"""Continuous batching: a pure core (rows, blocks, prefix cache, scheduler) that decides with plain data."""
