"""Charts as SVG for the page.

No text of the user gets into an SVG: names stand in the HTML around it. Colours are names that the page's style sheet
gives a value to, one for light and one for dark.
"""

import io
import re
import zlib
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from fairseq_l2rw.report.over_time import BINS, WeightHistory
from fairseq_l2rw.report.pairs import PairTable

SIZE = (4.5, 2.35)  # inches; 324 points wide, so that the text is readable on a telephone
# Matplotlib wants colours with a value: these stand for the variables of the style sheet.
_VARIABLES = {"#010101": "ink", "#020202": "muted", "#030303": "rule", **{f"#0a0a{i:02x}": f"c{i}" for i in range(8)}}
INK, MUTED, RULE = "#010101", "#020202", "#030303"
_STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "fairseq_l2rw", "font.size": 9.5, "text.color": MUTED, "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": RULE,
    "grid.linewidth": 0.6, "axes.axisbelow": True, "xtick.color": RULE, "xtick.labelcolor": MUTED, "ytick.color": RULE,
    "ytick.labelcolor": MUTED, "lines.linewidth": 1.5, "figure.facecolor": "none", "axes.facecolor": "none",
    "path.simplify": True,
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """A curve.

    Attributes:
        x, y: its points.
        color: number of its colour.
        dots: a dot for each point, and a thin line.
        spread: half the height of a band around it; empty for none.
    """

    x: Sequence[float]
    y: Sequence[float]
    color: int = 0
    dots: bool = False
    spread: Sequence[float] = ()


def color(number: int) -> str:
    """The colour that stands for the variable ``--cN`` of the page."""
    return f"#0a0a{number % 8:02x}"


def line_chart(lines: Sequence[Line], label: str, end: int, log: bool = False, start: Optional[float] = None) -> Markup:
    """Curves by update.

    Args:
        lines: the curves.
        label: what it shows, for who cannot see it.
        end: the last update on the axis.
        log: a logarithmic scale.
        start: an update to mark, the teacher's first.
    """
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes()
        for line in lines:
            how = {"marker": "o", "markersize": 3, "linewidth": 0.8} if line.dots or len(line.x) == 1 else {}
            axes.plot(line.x, line.y, color=color(line.color), **how)
            if len(line.spread):
                y, spread = np.array(line.y), np.array(line.spread)
                axes.fill_between(line.x, y - spread, y + spread, color=color(line.color), alpha=0.15, linewidth=0)
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.minorticks_off()
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        if start:
            axes.axvline(start, color=MUTED, linewidth=0.8, dashes=(2, 3))
        limits = _settled(lines)
        if limits and not log:
            axes.set_ylim(*limits)
        axes.set_xlim(0, end)
        _updates(axes)
        return _svg(figure, label)


def weight_histogram(table: PairTable, label: str) -> Markup:
    """Share of the pairs of each label in each of 25 bins of the weight."""
    bins = np.linspace(0, 1, 26)
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes()
        for number, mask in _masks(table):
            counts = np.histogram(np.clip(table.weights[mask], 0, 1), bins)[0]
            shares = 100 * counts / counts.sum()
            axes.stairs(shares, bins, color=color(number), linewidth=1.4)
            axes.stairs(shares, bins, color=color(number), alpha=0.18, fill=True, linewidth=0)
        _weights(axes.xaxis, axes.set_xlim)
        axes.set_ylabel("% of the pairs" + (" of its label" if table.kinds else ""))
        axes.set_xlabel("weight")
        return _svg(figure, label)


def kept_chart(table: PairTable, label: str) -> Markup:
    """How much of each label is left when only the best part of the corpus by weight is kept; without labels, the weight there."""
    order = np.argsort(-table.weights, kind="stable")
    points = np.unique(np.linspace(0, len(order), 101).astype(int))
    part = 100 * points / len(order)
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes()
        if table.kinds:
            for number, mask in _masks(table):
                kept = np.concatenate([[0], np.cumsum(mask[order])])[points]
                axes.plot(part, 100 * kept / mask.sum(), color=color(number))
            axes.plot([0, 100], [0, 100], color=MUTED, linewidth=0.8, dashes=(2, 3))
            axes.set_ylim(0, 102)
            axes.set_ylabel("% of its label kept")
        else:
            axes.plot(part[1:], table.weights[order][points[1:] - 1], color=color(0))
            _weights(axes.yaxis, axes.set_ylim)
            axes.set_ylabel("lowest weight kept")
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of the corpus kept, by weight")
        return _svg(figure, label)


def weight_against(table: PairTable, values: np.ndarray, what: str, label: str, log: bool = False) -> Markup:
    """Density of all pairs by `values` and weight, and the mean weight of each label along `values`."""
    low, high = np.quantile(values, [0.001, 0.999])
    if log:
        low, high = max(low, 1), max(high, 2)
        edges = np.unique(np.round(np.geomspace(low, high + 1, 28)))
    else:
        edges = np.linspace(low, high if high > low else low + 1, 28)
    values = np.clip(values, edges[0], np.nextafter(edges[-1], -np.inf))
    place = np.digitize(values, edges) - 1
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes()
        density = np.histogram2d(values, np.clip(table.weights, 0, 1), [edges, np.linspace(0, 1, BINS + 1)])[0]
        _shade(axes, edges, density, 7)
        for number, mask in _masks(table):
            count = np.bincount(place[mask], minlength=len(edges) - 1)
            total = np.bincount(place[mask], table.weights[mask], minlength=len(edges) - 1)
            enough = count >= max(5, 0.001 * mask.sum())
            middle = (edges[:-1] + edges[1:]) / 2
            axes.plot(middle[enough], total[enough] / count[enough], color=color(number))
        if log:
            axes.set_xscale("log")
            ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if edges[0] <= tick <= edges[-1]]
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.minorticks_off()
        axes.set_xlim(edges[0], edges[-1])
        _weights(axes.yaxis, axes.set_ylim)
        axes.set_xlabel(what)
        axes.set_ylabel("weight")
        return _svg(figure, label)


def history_charts(history: WeightHistory, label: str) -> List[Tuple[str, Markup]]:
    """For each label that has pairs one: the histogram of the weights, on its side, for each stretch of updates, and the mean."""
    charts = []
    edges = np.arange(history.counts.shape[1] + 1) * history.width
    centres = (np.arange(BINS) + 0.5) / BINS
    for number, counts in enumerate(history.counts):
        if not counts.any():
            continue
        with matplotlib.rc_context(_STYLE):
            figure, axes = _axes(height=1.8)
            totals = counts.sum(1)
            _shade(axes, edges, counts / np.maximum(totals, 1)[:, None], number)
            some = totals > 0
            middle = (edges[:-1] + edges[1:]) / 2
            axes.plot(middle[some], (counts @ centres)[some] / totals[some], color=INK, linewidth=1.1)
            axes.set_xlim(edges[np.argmax(some)], edges[-1])
            _weights(axes.yaxis, axes.set_ylim)
            axes.set_ylabel("weight")
            _updates(axes)
            charts.append((history.kinds[number], _svg(figure, label)))
    return charts


def _masks(table: PairTable) -> List[Tuple[int, np.ndarray]]:
    """Number and mask of each label that has pairs; without labels, all pairs."""
    if not table.kinds:
        return [(0, np.ones(len(table.weights), dtype=bool))]
    return [(number, table.kind == number) for number in range(len(table.kinds)) if (table.kind == number).any()]


def _settled(lines: Sequence[Line]) -> Optional[Tuple[float, float]]:
    """Limits without the first twentieth of the training, in which a loss falls from where nobody looks."""
    end = max((x for line in lines for x in line.x), default=0)
    kept = [
        y + sign * spread
        for line in lines
        for x, y, spread in zip(line.x, line.y, line.spread if len(line.spread) else [0] * len(line.x))
        if x >= end / 20
        for sign in (-1, 1)
    ]
    if not kept or min(kept) == max(kept):
        return None
    margin = 0.05 * (max(kept) - min(kept))
    return min(kept) - margin, max(kept) + margin


def _axes(height: float = SIZE[1]):
    """Every chart has the same margins, so that those above each other have their axes above each other."""
    figure = Figure(figsize=(SIZE[0], height))
    below = 0.42 / height  # inches, for the ticks and the name of the axis
    return figure, figure.add_axes((0.13, below, 0.82, 0.97 - below))


def _updates(axes) -> None:
    axes.set_xlabel("update")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _weights(axis, set_limits) -> None:
    set_limits(-0.02, 1.02)
    axis.set_ticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])


def _shade(axes, edges: np.ndarray, density: np.ndarray, number: int) -> None:
    """A cell for each (x, weight), the stronger the denser; empty ones are not drawn."""
    top = density.max() or 1
    heights = np.linspace(0, 1, density.shape[1] + 1)
    for level in np.linspace(0.1, 1, 10):  # ten strengths, one path each: a tenth of the size of a path a cell
        cells = np.argwhere((density / top > (level - 0.1) ** 2) & (density / top <= level**2 + 1e-12))
        if len(cells):
            boxes = [
                [
                    (edges[x], heights[y]),
                    (edges[x + 1], heights[y]),
                    (edges[x + 1], heights[y + 1]),
                    (edges[x], heights[y + 1]),
                ]
                for x, y in cells
            ]
            path = matplotlib.path.Path.make_compound_path(*(matplotlib.path.Path(box, closed=False) for box in boxes))
            patch = matplotlib.patches.PathPatch(path, facecolor=color(number), alpha=0.75 * level, linewidth=0)
            axes.add_patch(patch)


def _svg(figure: Figure, label: str) -> Markup:
    """The figure as an element of the page, with the style sheet's colours and font."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = out.getvalue()
    mark = f"f{zlib.crc32(svg.encode()):08x}"  # ids of one page must differ
    used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', svg))
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()
    for pattern, replacement in (
        (r"^.*?<svg[^>]*>|<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<defs>\s*</defs>|<!--.*?-->", ""),
        (r' id="([^"]+)"', lambda found: f' id="{mark}-{found[1]}"' if found[1] in used else ""),
        (r'url\(#|href="#', lambda found: f"{found[0]}{mark}-"),
        (r"font: ([\d.]+)px [^\"]*?(?=; text-anchor|; fill|\")|(font-size: [\d.]+px); font-family: [^;\"]*",
         lambda found: found[2] or f"font-size: {found[1]}px"),
        (r' transform="rotate\(-0 [^"]*"', ""),
        (r"#[0-9a-f]{6}\b", lambda found: f"var(--{_VARIABLES[found[0]]})" if found[0] in _VARIABLES else found[0]),
        (r"(?<=[ \"(-])\d+\.\d{3,}(?=[ \",)])", lambda found: f"{float(found[0]):.2f}"),
        (r"\s+", " "),
        (r"> <", "><"),
    ):  # fmt: skip
        svg = re.sub(pattern, replacement, svg, flags=re.DOTALL)
    return Markup(f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{svg}')
