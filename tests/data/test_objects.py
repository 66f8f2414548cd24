from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from skimage.measure import label, regionprops

from scalpel_hf.data import MaskValuesError, objects_from_mask, read_mask
from scalpel_hf.data.objects import encode_png

masks = hnp.arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14)))


@given(masks)
def test_boxes_cover_the_mask_and_areas_sum_to_it(mask):
    objects = objects_from_mask(mask)
    covered = np.zeros_like(mask)
    for x, y, w, h in objects["bbox"]:
        box = mask[int(y) : int(y + h), int(x) : int(x + w)]
        assert box.shape == (h, w)  # within the frame
        assert box.any(axis=0).all() or box.any(axis=1).all()
        for side in (box[0], box[-1], box[:, 0], box[:, -1]):
            assert side.any()  # tight
        covered[int(y) : int(y + h), int(x) : int(x + w)] = True
    assert not (mask & ~covered).any()
    assert sum(objects["area"]) == mask.sum()


@given(masks)
def test_objects_agree_with_skimage(mask):
    objects = objects_from_mask(mask.astype(np.uint8) * 255)
    expected = []
    for region in regionprops(label(mask, connectivity=2)):
        y0, x0, y1, x1 = region.bbox
        expected.append(([x0, y0, x1 - x0, y1 - y0], region.area))
    assert sorted(zip(objects["bbox"], objects["area"], strict=True)) == sorted(expected)
    assert objects["category"] == [0] * len(expected)


def test_a_single_pixel_and_diagonal_neighbours():
    mask = np.zeros((5, 8), np.uint8)
    mask[3, 5] = 255
    assert objects_from_mask(mask) == {"bbox": [[5, 3, 1, 1]], "area": [1], "category": [0]}
    mask[2, 6] = 255
    assert objects_from_mask(mask) == {"bbox": [[5, 2, 2, 2]], "area": [2], "category": [0]}
    assert objects_from_mask(np.zeros((4, 4))) == {"bbox": [], "area": [], "category": []}


TARGET = np.zeros((6, 7), bool)
TARGET[2:4, 3:6] = True


def palette(mask: np.ndarray) -> Image.Image:
    image = Image.fromarray(mask.astype(np.uint8)).convert("P")
    image.putdata(mask.astype(np.uint8).ravel().tolist())
    image.putpalette([0, 0, 0, 255, 255, 255] + [0] * 750)
    return image


@pytest.mark.parametrize(
    "mask",
    [
        TARGET,
        TARGET.astype(np.uint8),
        TARGET.astype(np.uint8) * 255,
        TARGET.astype(np.uint8) * 128,
        TARGET.astype(np.uint16) * 255,
        TARGET.astype(np.uint16),
        TARGET.astype(np.uint16) * 65535,
        TARGET.astype(np.float32),
        np.repeat(TARGET[:, :, None], 3, axis=2).astype(np.uint8) * 255,
        Image.fromarray(TARGET),
        palette(TARGET),
    ],
    ids=lambda mask: f"{type(mask).__name__}-{getattr(mask, 'mode', None) or mask.dtype}",
)
def test_masks_of_every_kind(mask):
    read = read_mask(mask)
    assert read.dtype == np.uint8
    assert np.array_equal(read, TARGET * 255)


def test_an_empty_mask_stays_empty_and_a_jpeg_is_cut_at_half():
    assert not read_mask(np.zeros((3, 4), np.uint8)).any()
    buffer = BytesIO()
    Image.fromarray(np.kron(TARGET, np.ones((5, 5))).astype(np.uint8) * 255).save(buffer, "JPEG", quality=60)
    assert len(np.unique(np.asarray(Image.open(buffer)))) > 2
    assert np.array_equal(read_mask(buffer.getvalue()), np.kron(TARGET, np.ones((5, 5))) * 255)


@pytest.mark.parametrize("mask", [TARGET * np.uint8(38), TARGET * np.uint8(100) + np.uint8(100)], ids=["dim", "two"])
def test_a_mask_of_unknown_scale_is_refused_rather_than_read_as_empty(mask):
    with pytest.raises(MaskValuesError, match="is ambiguous: say which values are target with --mask-values"):
        read_mask(mask)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_is_lossless(dtype):
    array = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (9, 11), dtype=dtype, endpoint=True)
    assert np.array_equal(np.asarray(Image.open(BytesIO(encode_png(array)))), array)
