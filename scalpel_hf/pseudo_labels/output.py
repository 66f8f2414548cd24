"""Finished shards as one data set on disk, written piece by piece: nothing is copied at the end or held in memory."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import numpy as np

from scalpel_hf.data.label_sources import BY_PEOPLE, NONE, PSEUDO
from scalpel_hf.utils.files import safe_name, write_json
from scalpel_hf.utils.reading import read_json

KEY_FILE = "pseudo_labels.json"  # in a finished folder: which settings it was made with
REVIEW_FOLDER = "review"  # in a finished folder: what people decided about its frames

Labelled: TypeAlias = datasets.Dataset | datasets.IterableDataset
Decide = Callable[[int, Path], datasets.Dataset]  # has a shard's labels written to a file, which it opens


def write_arrow(decide: Decide, count: int, folder: Path, fingerprint: str, split: str) -> None:
    """A folder as `save_to_disk` leaves it, with a file a shard."""
    files = [f"data-{index:05d}-of-{count:05d}.arrow" for index in range(count)]
    for index, file in enumerate(files):
        last = decide(index, folder / file)
    last.select([]).save_to_disk(str(folder / "empty"))
    state = read_json(folder / "empty" / "state.json")
    state |= {"_data_files": [{"filename": file} for file in files], "_fingerprint": fingerprint, "_split": split}
    shutil.move(folder / "empty" / "dataset_info.json", folder)
    shutil.rmtree(folder / "empty")
    write_json(folder / "state.json", state)


def write_parquet(decide: Decide, count: int, folder: Path, split: str) -> None:
    """A folder that `load_dataset` loads, with a file a shard."""
    safe_name(split, "the split")
    (folder / "data").mkdir()
    for index in range(count):
        cache_file = folder / "shard.arrow"
        decide(index, cache_file).to_parquet(str(folder / "data" / f"{split}-{index:05d}-of-{count:05d}.parquet"))
        cache_file.unlink()


def load_output(folder: Path) -> Labelled:
    """What either of them wrote; of parquet files a stream."""
    if (folder / "state.json").exists():
        return datasets.load_from_disk(str(folder))
    files = str(folder / "data" / "*.parquet")
    return datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)


def column_pairs(path: Path, *names: str) -> Iterator[tuple[Any, ...]]:
    """Some columns of a shard, row by row."""
    for row in datasets.Dataset.from_file(str(path)).select_columns(list(names)):
        yield tuple(row[name] for name in names)


def read_run(folder: str | Path) -> dict[str, Any]:
    """The record of a finished run: its `rules`, `teacher`, and `summary`; of skipped frames the names, since what was
    wrong with them may name files of this machine."""
    folder = Path(folder)
    summary = read_json(folder / "summary.json")
    summary["skipped"] = sorted(summary["skipped"])
    return read_json(folder / KEY_FILE) | {"summary": summary}


def read_grid(folder: str | Path) -> bytes | None:
    """The picture grid of its report, a PNG file's content."""
    path = Path(folder) / "report" / "grid.png"
    return path.read_bytes() if path.exists() else None


def summarize(dataset: datasets.Dataset | datasets.IterableDataset) -> dict[str, Any]:
    """
    How many rows have each `label_source`; how many of those without one the teacher was not sure about;
    how many pseudo labels have 0, 1, more objects, how many objects there are, and the quartiles of their areas in
    pixels.
    """
    sources = dict.fromkeys((*BY_PEOPLE, PSEUDO, NONE), 0)
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
