"""Data sets that are read as they come, without knowing how much there is."""

import itertools
from collections.abc import Iterator
from typing import Any

import datasets

from scalpel_hf.data.image_cells import undecoded


def stream_features(stream: datasets.IterableDataset) -> datasets.Features:
    """A stream's features, with those of `name` and `label_source` where it hasn't got them."""
    if stream.features is None or "image" not in stream.features:
        raise ValueError(
            "the stream must say what its columns are, and have `image`: give its features where it is made"
        )
    own = {"name": datasets.Value("string"), "label_source": datasets.Value("string")}
    return datasets.Features({**stream.features, **{k: v for k, v in own.items() if k not in stream.features}})


def stream_shards(stream: datasets.IterableDataset, size: int) -> Iterator[list[dict[str, Any]]]:
    """A stream's rows, undecoded, `size` at a time; named by their number and unlabelled unless they say otherwise."""
    rows = ({"name": f"{i:06d}", "label_source": "none", **row} for i, row in enumerate(undecoded(stream)))
    while shard := list(itertools.islice(rows, size)):
        yield shard
