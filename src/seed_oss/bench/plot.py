"""The result as a picture: prefill and decode speed of every engine, as PNG."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from seed_oss.errors import InputError, MissingExtraError


def check_plot(path: Path) -> None:
    """Raise before anything is measured if the plot could not be written.

    Raises:
        InputError: no .png, or no such folder.
        MissingExtraError: matplotlib is not installed.
    """
    if path.suffix.lower() != ".png":
        raise InputError(f"the plot is {path.name!r:.80}; it is written as PNG, name it something.png")
    if not path.absolute().parent.is_dir():
        raise InputError(f"the folder of {path} is not there; make it first")
    _matplotlib()


def write_plot(document: Mapping[str, Any], path: Path) -> None:
    """Draw bars with their spread, one panel for the prompt and one for the tokens after it.

    Args:
        document: of `run`.
        path: the PNG file.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    make_figure = _matplotlib()
    rows = list(reversed(document["results"]))
    figure = make_figure(figsize=(10, 1.2 + 0.42 * len(rows)), layout="constrained")
    work = document["work"]
    panels = (
        ("prefill_tokens_per_s", f"prompt of {work['prompt_tokens']} tokens"),
        ("decode_tokens_per_s", f"{work['new_tokens']} tokens after it"),
    )
    for axes, (name, title) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
        _draw(axes, rows, name)
        axes.set_title(f"{title}: tokens/s")
    figure.suptitle(f"{work['model']} on {document['machine']['processor']}, {document['machine']['cores']} cores")
    figure.savefig(path, format="png", dpi=120)


def _draw(axes: Any, rows: list[Mapping[str, Any]], name: str) -> None:
    medians = [row[name] for row in rows]
    spreads = [row["spread"][name] for row in rows]
    below = [median - spread["min"] for median, spread in zip(medians, spreads, strict=True)]
    above = [spread["max"] - median for median, spread in zip(medians, spreads, strict=True)]
    colors = ["tab:red" if row["engine"] == "seed_oss" else "tab:gray" for row in rows]
    labels = [f"{row['engine']} {row['weights']}" for row in rows]
    bars = axes.barh(labels, medians, xerr=(below, above), color=colors, capsize=3)
    axes.bar_label(bars, [f"{median:.4g}" for median in medians], padding=4, fontsize=8)
    axes.margins(x=0.15)


def _matplotlib() -> Any:
    """What makes a figure that needs no display."""
    try:
        canvas: Any = import_module("matplotlib.backends.backend_agg").FigureCanvasAgg
        base: Any = import_module("matplotlib.figure").Figure
    except ImportError as error:
        raise MissingExtraError(
            f"A plot needs matplotlib ({error}). Install it: pip install 'seed-oss[bench]'"
        ) from error

    def make(**settings: Any) -> Any:
        figure = base(**settings)
        canvas(figure)
        return figure

    return make
