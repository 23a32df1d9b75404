"""The command `seed-oss`. One file per command; what a command needs is imported when it runs."""

from seed_oss.cli.entry import app, main

__all__ = ["app", "main"]
