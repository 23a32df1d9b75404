"""The command `seed-oss`. One file per command; what a command needs is imported when it runs."""

import sys

INTERRUPTED = 130  # as shells count it: 128 + SIGINT


def main() -> None:
    """Run the command line; Ctrl-C while it is still being loaded ends it without a traceback, too."""
    try:
        from seed_oss.cli.entry import run
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    run()


__all__ = ["main"]
