"""What a labelled data set holds, in numbers."""

from typing import Any

import datasets
import numpy as np


def summarize(dataset: datasets.Dataset | datasets.IterableDataset) -> dict[str, Any]:
    """
    How many rows have a human's, a pseudo or no label; how many of those without one the teacher was not sure about;
    how many pseudo labels have 0, 1, more objects, how many objects there are, and the quartiles of their areas in
    pixels.
    """
    sources: dict[str, int] = {"human": 0, "pseudo": 0, "none": 0}
    counts, areas, unsure = [], [], 0
    for row in dataset.select_columns(["label_source", "pseudo_objects", "teacher"]):
        sources[row["label_source"]] += 1
        if row["label_source"] == "pseudo":
            counts.append(len(row["pseudo_objects"]["area"]))
            areas += row["pseudo_objects"]["area"]
        unsure += row["label_source"] == "none" and row["teacher"] is not None
    quartiles = [float(q) for q in np.percentile(areas, [0, 25, 50, 75, 100])] if areas else []
    return {
        **sources,
        "unsure": unsure,
        "empty": sum(c == 0 for c in counts),
        "one": sum(c == 1 for c in counts),
        "many": sum(c > 1 for c in counts),
        "objects": len(areas),
        "area_quartiles": quartiles,
    }
