"""Frames' names, as other programs and systems spell them."""

import os
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalpel_hf.data import LAYOUTS, BrokenPairsError, load_irst_dataset
from scalpel_hf.data.names import FrameNames, UnknownNameError

COMPOSED = "m\u00e9t\u00e9o"
NAMES = ["f0", "f1", "a.b", COMPOSED, "1/x", "2/x", "2/y", "0a1b2c3d-kept"]


@pytest.mark.parametrize(
    ("spelt", "name"),
    [
        ("f0", "f0"),
        (" f0.png\t", "f0"),
        ("f0.PNG", "f0"),
        ("1/f0", "f0"),
        ("./f0", "f0"),
        ("images\\f0.png", "f0"),
        ("C:\\data\\images\\f0.tiff", "f0"),
        ("3f2a9c1b-f0", "f0"),
        ("upload/1/3f2a9c1b-f0.png", "f0"),
        ("0a1b2c3d-kept", "0a1b2c3d-kept"),
        ("a.b", "a.b"),
        ("a.b.png", "a.b"),
        (unicodedata.normalize("NFD", COMPOSED) + ".png", COMPOSED),
        ("2\\x", "2/x"),
        ("y", "2/y"),
    ],
)
def test_spellings(spelt: str, name: str) -> None:
    assert FrameNames(NAMES).find(spelt) == name


def test_a_date_before_a_name_is_no_prefix_of_an_upload() -> None:
    assert FrameNames(["0001"]).get("20240501-0001") is None
    assert FrameNames(["0001"]).get("20249901-0001") == "0001"  # no month


def test_what_is_not_found_says_what_was_tried_and_the_nearest() -> None:
    names = FrameNames(NAMES)
    with pytest.raises(
        UnknownNameError,
        match=r"no frame 'images/f00.png' \(tried images/f00.png, images/f00, images_f00, f00.png, f00\)",
    ):
        names.find("images/f00.png")
    with pytest.raises(UnknownNameError, match=r"the nearest is 'f[01]'"):
        names.find("f00")
    with pytest.raises(UnknownNameError, match="'x' may be 1/x, 2/x: write one of them in full"):
        names.find("x")
    for odd in ("", ".", "/", "..", ".png", "\0"):
        assert names.get(odd) is None


def test_a_list_of_another_data_set_is_no_hang() -> None:
    names = FrameNames(f"Misc_{i}" for i in range(20_000))
    began = time.process_time()
    messages = []
    for i in range(2_000):
        with pytest.raises(UnknownNameError) as caught:
            names.find(f"other-{i:06d}")
        assert names.get(f"other-{i:06d}") is None
        messages.append(str(caught.value))
    assert time.process_time() - began < 10 and len(messages) == 2_000


@given(st.lists(st.text(min_size=1), min_size=1, unique=True))
@settings(deadline=None)
def test_every_name_is_its_own_best_spelling(names: list[str]) -> None:
    assert [FrameNames(names).find(name) for name in names] == names


def test_a_list_of_other_spellings(make_set: Callable[..., Path]) -> None:
    nfd = unicodedata.normalize("NFD", COMPOSED)
    lists = {"train.txt": ["1/f0", "images\\f1.png"], "test.txt": [nfd]}
    root = make_set(LAYOUTS["generic"], ["f0", "f1", COMPOSED], lists)
    data = load_irst_dataset("generic", root)
    assert data["train"]["name"][:] == ["f0", "f1"] and data["test"]["name"][:] == [COMPOSED]
    (root / "masks" / f"{COMPOSED}.png").rename(root / "masks" / f"{nfd}.png")
    assert np.asarray(load_irst_dataset("generic", root, split="test")[0]["mask"]).any()


def test_lists_that_mean_one_frame_twice_or_none(make_set: Callable[..., Path]) -> None:
    root = make_set(LAYOUTS["generic"], ["f0", "f1"], {"train.txt": ["f0", "images/f0.png"]})
    with pytest.raises(ValueError, match="names f0 more than once"):
        load_irst_dataset("generic", root)
    make_set(LAYOUTS["generic"], ["f0", "f1"], {"train.txt": ["f0"], "test.txt": ["1/f0"]})
    with pytest.raises(ValueError, match="share f0"):
        load_irst_dataset("generic", root)
    make_set(LAYOUTS["generic"], ["f0", "f1"], {"train.txt": ["f0"], "test.txt": ["frame_1"]})
    with pytest.raises(BrokenPairsError, match="no such image: the data set has no frame 'frame_1'"):
        load_irst_dataset("generic", root)
    (root / "train.txt").write_bytes("m\u00e9t\u00e9o".encode("latin-1"))
    with pytest.raises(ValueError, match=r"train\.txt is no text in UTF-8"):
        load_irst_dataset("generic", root)
    (root / "train.txt").unlink()
    os.mkfifo(root / "train.txt")  # which nobody writes to: it would be waited for without end
    with pytest.raises(ValueError, match=r"train\.txt is a pipe or device, not a file"):
        load_irst_dataset("generic", root, split_list={"train": "train.txt"})
