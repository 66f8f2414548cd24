"""Shards of streamed data sets (`IterableDataset`), whose length isn't known."""

import itertools
from collections.abc import Iterator
from typing import Any

import datasets

from scalpel_hf.data.image_cells import undecoded


def stream_features(stream: datasets.IterableDataset) -> datasets.Features:
    """A stream's features, completed by `name` and `label_source`; `ValueError` where they are unknown."""
    if stream.features is None or "image" not in stream.features:
        raise ValueError("the stream's features are unknown, or lack `image`: pass `features` where the stream is made")
    own = {"name": datasets.Value("string"), "label_source": datasets.Value("string")}
    return datasets.Features({**stream.features, **{k: v for k, v in own.items() if k not in stream.features}})


def stream_shards(stream: datasets.IterableDataset, size: int) -> Iterator[list[dict[str, Any]]]:
    """A stream's undecoded rows, `size` at a time. By default a row's name is its number, its `label_source` none."""
    rows = ({"name": f"{i:06d}", "label_source": "none", **row} for i, row in enumerate(undecoded(stream)))
    while shard := list(itertools.islice(rows, size)):
        yield shard
