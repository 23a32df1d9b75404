"""The commands put together, and what happens to their errors."""

import os
import sys
from typing import Annotated

import typer

from seed_oss._version import __version__
from seed_oss.cli.bench import bench
from seed_oss.cli.chat import chat
from seed_oss.cli.convert import convert
from seed_oss.cli.doctor import doctor
from seed_oss.cli.generate import generate
from seed_oss.cli.plan import plan
from seed_oss.cli.quantize import quantize
from seed_oss.cli.serve import serve
from seed_oss.cli.terminal import prepare_streams, show_error
from seed_oss.errors import SeedOssError

app = typer.Typer(
    name="seed-oss",
    help="The Seed-OSS language models: run them, talk to them, convert weights to them.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong arguments, 130 stopped with Ctrl-C. SEED_OSS_DEBUG=1 shows where an "
    "error came from.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command()(generate)
app.command()(chat)
app.command()(serve)
app.command()(convert)
app.command()(plan)
app.command()(bench)
app.command()(quantize)
app.command()(doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"seed-oss {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Takes the options that come before a command."""


def run() -> None:
    """Run the command line; every error of the user's is one line and an exit code, never a traceback."""
    prepare_streams()
    try:
        app()
    except (SeedOssError, OSError, MemoryError, RuntimeError) as error:
        message = _message(error)
        if message is None or os.environ.get("SEED_OSS_DEBUG", "") not in ("", "0"):
            raise
        show_error(message)
        sys.exit(1)


def _message(error: BaseException) -> str | None:
    """What to say about an error that is not our mistake, or None."""
    if isinstance(error, SeedOssError):
        return str(error)
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror or error}{where}"
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        return (
            "not enough memory; try --dtype bfloat16 or --quantization int4, a smaller model or a smaller "
            "--max-new-tokens"
        )
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    # torch is not imported here: its own classes are known by what they say
    text = str(error)
    return "out of memory" in text or "can't allocate memory" in text
