"""A training's curves, as JSON and SVG in the run's folder."""

import math
from pathlib import Path
from typing import Any

from scalpel_hf.utils.files import write_json, write_text
from scalpel_hf.utils.templates import html_template

HISTORY_FILE = "history.json"  # losses every `logging_steps` and metrics on held-out frames every `eval_steps`
PICTURE_FILE = "history.svg"
SHOWN = ("iou", "niou", "pd", "ap50", "f1")  # held-out metrics between 0 and 1
COLORS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b")
WIDTH, HEIGHT, LEFT, TOP = 640, 220, 48, 30  # size of a panel in pixels, and its left and top margin

Points = list[tuple[float, float]]

TEMPLATE = """<svg xmlns="http://www.w3.org/2000/svg" width="{{ width }}" height="{{ height * panels|length }}"
 font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="white"/>
{% for panel in panels %}<g transform="translate(0 {{ height * loop.index0 }})">
{% for y, label in panel.ticks %}<path d="M{{ left }} {{ y }}H{{ width - 12 }}" stroke="#ddd"/>
<text x="{{ left - 6 }}" y="{{ y + 4 }}" text-anchor="end">{{ label }}</text>{% endfor %}
{% for curve in panel.curves %}<polyline points="{{ curve.points }}" fill="none" stroke="{{ curve.color }}"/>
<text x="{{ left + 110 * loop.index0 }}" y="18" fill="{{ curve.color }}">{{ curve.name }}</text>{% endfor %}
<text x="{{ width - 12 }}" y="{{ height - 8 }}" text-anchor="end">{{ last }} steps</text>
</g>{% endfor %}
</svg>
"""


def write_history(folder: str | Path, history: list[dict[str, Any]]) -> None:
    """Write `history.json` and, from two entries on, `history.svg`: losses above, metrics on held-out frames below."""
    write_json(Path(folder) / HISTORY_FILE, history)
    if len(history) > 1:
        write_text(Path(folder) / PICTURE_FILE, draw(history))


def draw(history: list[dict[str, Any]]) -> str:
    """The curves of a history over the steps, as an SVG picture."""
    losses: dict[str, Points] = {}
    metrics: dict[str, Points] = {}
    for entry in history:
        held_out = entry.get("validation", {})
        values = {name: held_out[name] for name in SHOWN if held_out.get(name) is not None}
        for name, value in (values or {k: v for k, v in entry.items() if k not in ("step", "validation")}).items():
            if math.isfinite(value):
                (metrics if values else losses).setdefault(name, []).append((entry["step"], value))
    last = max(entry["step"] for entry in history)
    panels = [_panel(curves, last) for curves in (losses, metrics) if curves]
    return html_template(TEMPLATE).render(panels=panels, width=WIDTH, height=HEIGHT, left=LEFT, last=last)


def _panel(curves: dict[str, Points], last: int) -> dict[str, Any]:
    values = [value for points in curves.values() for _, value in points]
    low, high = min(0.0, *values), max(*values, 0.0)
    high = high if high > low else low + 1

    def place(step: float, value: float) -> str:
        return f"{LEFT + (WIDTH - LEFT - 12) * step / last:.1f},{_y_coordinate(value, low, high):.1f}"

    return {
        "ticks": [(round(_y_coordinate(v, low, high), 1), f"{v:.2g}") for v in (low, (low + high) / 2, high)],
        "curves": [
            {"name": name, "color": COLORS[i % len(COLORS)], "points": " ".join(place(*point) for point in points)}
            for i, (name, points) in enumerate(curves.items())
        ],
    }


def _y_coordinate(value: float, low: float, high: float) -> float:
    """y coordinate of a value, in pixels from the top of its panel."""
    return HEIGHT - TOP - (HEIGHT - 2 * TOP) * (value - low) / (high - low)
