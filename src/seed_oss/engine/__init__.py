"""Continuous batching: many requests, one model. `messages`, `client` and the core of the scheduler need no torch."""
