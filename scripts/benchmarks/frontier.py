"""The picture of IoU over milliseconds: our students and others', of which results/frontier has a file each.

A file has `model`, and of ours `seeds`, the beginning of the names of the results (without results/) whose mean is
shown. Of others it has `iou` in % on NUAA-SIRST's test frames, how many `frames` these are, where it is from
(`source`), and of models that the benchmark doesn't run `ms`, measured elsewhere: their circles are empty.
"""

import math
from pathlib import Path
from statistics import fmean
from typing import Any

import jinja2

from scalpel_hf.utils.reading import read_json

WIDTH, HEIGHT, MARGIN = 640, 360, 48
TEMPLATE = """<svg xmlns="http://www.w3.org/2000/svg" width="{{ width }}" height="{{ height }}"
 font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="white"/>
{% for x, label in columns %}<path d="M{{ x }} {{ margin }}V{{ height - margin }}" stroke="#ddd"/>
<text x="{{ x }}" y="{{ height - margin + 16 }}" text-anchor="middle">{{ label }}</text>{% endfor %}
{% for y, label in rows %}<path d="M{{ margin }} {{ y }}H{{ width - margin }}" stroke="#ddd"/>
<text x="{{ margin - 6 }}" y="{{ y + 4 }}" text-anchor="end">{{ label }}</text>{% endfor %}
{% for point in points %}<circle cx="{{ point.x }}" cy="{{ point.y }}" r="5" stroke="#1f77b4"
 fill="{{ '#1f77b4' if point.here else 'white' }}"/>
<text x="{{ point.x + 9 }}" y="{{ point.y + 4 }}">{{ point.name }}</text>{% endfor %}
<text x="{{ margin }}" y="20">IoU in % on NUAA-SIRST's test frames</text>
<text x="{{ width - margin }}" y="{{ height - 10 }}" text-anchor="end">ms a frame of 256 x 256, onnxruntime, one thread;
 empty: on another processor</text>
</svg>
"""


def draw(folder: Path, milliseconds: dict[str, float]) -> str:
    """SVG of the models in a folder, at what was measured here or else at what their files say; others are left out."""
    known = [with_iou(read_json(path), folder.parent) for path in sorted(folder.glob("*.json"))]
    shown = [
        {**one, "ms": milliseconds.get(one["model"], one.get("ms")), "here": one["model"] in milliseconds}
        for one in known
    ]
    shown = [one for one in shown if one["ms"] is not None]
    if not shown:
        raise ValueError(f"{folder} has no file of a model whose milliseconds are known: there is nothing to draw")
    most = max(one["frames"] for one in shown)
    first, last = (f(math.log10(pick(one["ms"] for one in shown))) for f, pick in ((math.floor, min), (math.ceil, max)))
    low, high = (5 * f(pick(one["iou"] for one in shown) / 5) for f, pick in ((math.floor, min), (math.ceil, max)))

    def x(ms: float) -> float:
        return round(MARGIN + (WIDTH - 2 * MARGIN) * (math.log10(ms) - first) / max(last - first, 1), 1)

    def y(iou: float) -> float:
        return round(HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (iou - low) / max(high - low, 5), 1)

    def name(one: dict[str, Any]) -> str:
        return one["model"] if one["frames"] == most else f"{one['model']}, {one['frames']} of {most} frames"

    return (
        jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
        .from_string(TEMPLATE)
        .render(
            columns=[(x(10**power), f"{10**power:g}") for power in range(first, last + 1)],
            rows=[(y(iou), iou) for iou in range(low, high + 1, 5)],
            points=[{"x": x(one["ms"]), "y": y(one["iou"]), "name": name(one), "here": one["here"]} for one in shown],
            width=WIDTH,
            height=HEIGHT,
            margin=MARGIN,
        )
    )


def with_iou(one: dict[str, Any], results: Path) -> dict[str, Any]:
    """A model with its `iou` and `frames`, which are the mean of its `seeds` if it has these."""
    if "seeds" not in one:
        return one
    metrics = [read_json(path)["metrics"] for path in sorted(results.glob(f"{one['seeds']}-*.json"))]
    if not metrics:
        raise ValueError(f"{one['model']}: no file {results / one['seeds']}-*.json")
    return {**one, "iou": 100 * fmean(m["iou"] for m in metrics), "frames": metrics[0]["n_images"]}
