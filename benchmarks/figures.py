"""Figures of the experiments, each as PNG and SVG."""

from __future__ import annotations

import logging
from pathlib import Path

from fairseq_l2rw.errors import L2RWError


def pyplot():
    """matplotlib's, without a display.

    Raises:
        L2RWError: it is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise L2RWError("figures need matplotlib, which is missing: pip install 'fairseq_l2rw[benchmarks]'") from error
    matplotlib.use("Agg")
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # at lower levels it tells of every font
    matplotlib.rcParams["svg.hashsalt"] = "fairseq_l2rw"  # the same figure gives the same file
    import matplotlib.pyplot as plt

    return plt


def curves(
    path: Path,
    panels: dict[str, dict[str, list[tuple[float, float]]]],
    ylabel: str,
    ylim: tuple[float, float] = (0.0, 1.0),
    xlabel: str = "student updates",
) -> None:
    """One panel beside the other, lines over student updates, or what else `xlabel` names.

    Args:
        path: without ending.
        panels: title -> name of the line -> (update, value).
    """
    plt = pyplot()
    panels = {title: lines for title, lines in panels.items() if any(lines.values())}
    if not panels:
        return
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.4), sharey=True, squeeze=False, layout="constrained")
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    for axis, (title, lines) in zip(axes[0], panels.items()):
        for name, points in lines.items():
            if points:
                axis.plot(*zip(*points), marker=".", label=name, color=f"C{names.index(name) % 10}")
        axis.set(title=title, xlabel=xlabel, ylim=ylim)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel(ylabel)
    axes[0][-1].legend(fontsize="small")
    _save(figure, path)


def bars(path: Path, values: dict[str, tuple[float, float]], xlabel: str, lines: dict[str, float] | None = None) -> None:
    """Horizontal bars with error bars.

    Args:
        values: name -> (value, half the length of its error bar).
        lines: name -> where a vertical line is drawn.
    """
    plt = pyplot()
    if not values:
        return
    figure, axis = plt.subplots(figsize=(6.4, 0.9 + 0.35 * len(values)), layout="constrained")
    names, heights = list(values), list(values.values())
    axis.barh(names, [h for h, _ in heights], xerr=[e for _, e in heights], color="C0", capsize=3)
    for number, (name, value) in enumerate((lines or {}).items(), start=1):
        axis.axvline(value, color=f"C{number}", linestyle="--", label=name)
    if lines:
        axis.legend(fontsize="small")
    axis.invert_yaxis()
    axis.set_xlabel(xlabel)
    axis.grid(axis="x", alpha=0.3)
    _save(figure, path)


def _save(figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for ending in ("png", "svg"):
        figure.savefig(path.with_suffix(f".{ending}"), dpi=150, metadata={"Date": None} if ending == "svg" else None)
    pyplot().close(figure)
