"""COCO's polygons, by the definition and as contours through pixels' centres."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from scipy import ndimage

from scalpel_hf.formats import LabelFileError, read_coco
from scalpel_hf.formats.polygons import outline

from .small_sets import draw, masks

AROUND = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))  # clockwise from the right


def contour(pixels: np.ndarray) -> list[list[int]]:
    """The outer border of a component through its pixels' centres, x and y, as OpenCV's `findContours` has it without
    simplification: Moore's tracing, until it leaves the first pixel as it did at first."""
    padded = np.pad(pixels, 1)
    first = row, column = tuple(np.argwhere(padded)[0].tolist())
    way, points, started = 0, [], None
    while True:
        for turn in range(8):
            new = (way + 5 + turn) % 8
            if padded[row + AROUND[new][0], column + AROUND[new][1]]:
                break
        else:
            return [[column - 1, row - 1]]
        if (row, column, new) == started:
            return points
        if (row, column) == first and started is None:
            started = (row, column, new)
        points.append([column - 1, row - 1])
        row, column, way = row + AROUND[new][0], column + AROUND[new][1], new


def corners(points: list[list[int]]) -> list[list[int]]:
    """A contour's points at which it turns, as `CHAIN_APPROX_SIMPLE` leaves them."""
    array = np.array(points)
    steps = np.roll(array, -1, 0) - array
    turns = (steps != np.roll(steps, 1, 0)).any(1)
    return array[turns].tolist() or points


def flat(points: Any) -> list[float]:
    return np.ravel(points).tolist()


def read(tmp_path: Path, shape: tuple[int, int], *annotations: dict[str, Any]) -> np.ndarray:
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": shape[1], "height": shape[0]}],
        "annotations": [{"id": i, "image_id": 1, "category_id": 1, **a} for i, a in enumerate(annotations)],
    }
    path = tmp_path / "made.json"
    path.write_text(json.dumps(content))
    (label,) = read_coco(path)
    return label.mask


def box_of(mask: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [
        int(columns[0]),
        int(rows[0]),
        int(columns[-1] - columns[0] + 1),
        int(rows[-1] - rows[0] + 1),
    ]


def components(mask: np.ndarray) -> list[np.ndarray]:
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    return [ndimage.binary_fill_holes(labels == number) for number in range(1, count + 1)]


DIAMOND = [4, 2, 2, 4, 4, 6, 6, 4]  # OpenCV's contour of |x − 4| + |y − 4| ≤ 2: 13 pixels
YS, XS = np.mgrid[:10, :12]
THIRTEEN = abs(XS - 4) + abs(YS - 4) <= 2
BOX = [2, 2, 5, 5]


@pytest.mark.parametrize(
    "says",
    [
        {"bbox": BOX, "area": 13},
        {"bbox": BOX},
        {"area": 13},
        {"bbox": BOX, "area": 8},  # `contourArea` beside `boundingRect`
        {"bbox": [2, 2, 4, 4], "area": 13},
        {"bbox": BOX, "area": 25},
        {"bbox": [2.0, 2.0, 5.0, 5.0], "area": 0, "iscrowd": 0},
    ],
)
@pytest.mark.parametrize("half", [0, 0.5])
def test_a_contour_through_centres_keeps_its_pixels(tmp_path: Path, says: dict, half: float) -> None:
    polygon = {"segmentation": [[side + half for side in DIAMOND]], **says}
    if half and says.get("bbox") == [2, 2, 4, 4]:
        polygon["bbox"] = [2.5, 2.5, 4, 4]
    with pytest.warns(UserWarning, match="polygons of 1 annotations go through the centres"):
        np.testing.assert_array_equal(read(tmp_path, (10, 12), polygon), THIRTEEN)


@pytest.mark.parametrize("says", [{}, {"bbox": [2, 2, 4, 4]}, {"area": 8}, {"bbox": [2, 2, 4, 4], "area": 16}])
def test_by_the_definition_it_is_one_of_eight(tmp_path: Path, says: dict) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        mask = read(tmp_path, (10, 12), {"segmentation": [DIAMOND], **says})
    reference = draw((2, slice(3, 5)), (3, slice(2, 6)), (4, slice(3, 5)), shape=(10, 12))  # as pycocotools fills it
    np.testing.assert_array_equal(mask, reference)


@given(masks())
@settings(deadline=None, max_examples=60)
def test_all_contours_of_a_mask(tmp_path_factory: pytest.TempPathFactory, mask: np.ndarray) -> None:
    assume(mask.any())
    parts = components(mask)
    annotations = [
        {"segmentation": [flat(simplify(contour(part)))], "bbox": box_of(part), "area": int(part.sum())}
        for part, simplify in zip(parts, [corners, list] * len(parts), strict=False)
    ]
    with pytest.warns(UserWarning, match="go through the centres"):
        found = read(tmp_path_factory.mktemp("coco"), mask.shape, *annotations)
    np.testing.assert_array_equal(found, np.logical_or.reduce(parts))


@given(masks())
@settings(deadline=None, max_examples=60)
def test_all_outlines_of_a_mask(tmp_path_factory: pytest.TempPathFactory, mask: np.ndarray) -> None:
    """Along the pixels' edges, of which the corners are whole numbers too, nothing is taken for a centre."""
    assume(mask.any())
    parts = components(mask)
    edges = [{"segmentation": [flat(np.rint(outline(part)))], "bbox": box_of(part)} for part in parts]
    for part, annotation in zip(parts, edges, strict=True):
        x, y = np.reshape(annotation["segmentation"][0], (-1, 2)).T
        annotation["area"] = abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
        assert annotation["area"] == part.sum()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = read(tmp_path_factory.mktemp("coco"), mask.shape, *edges)
    np.testing.assert_array_equal(found, np.logical_or.reduce(parts))


def test_a_mask_or_a_polygon_that_can_not_be_one_needs_to_say_nothing(tmp_path: Path) -> None:
    centre, edge = {"segmentation": [DIAMOND], "area": 13}, {"segmentation": [[8, 1, 10, 1, 10, 3, 8, 3]], "area": 4}
    rle = {"segmentation": {"size": [10, 12], "counts": [119, 1]}}
    between = {"segmentation": [[8.1, 5.1, 9.9, 5.1, 9.9, 6.9, 8.1, 6.9]]}
    with pytest.warns(UserWarning, match="polygons of 1 annotations"):
        found = read(tmp_path, (10, 12), rle, between, centre, edge)
    square, pixels = (slice(1, 3), slice(8, 10)), (slice(5, 7), slice(8, 10))
    np.testing.assert_array_equal(found, THIRTEEN | draw(square, pixels, (9, 11), shape=(10, 12)))


def test_one_that_does_not_say_is_as_the_others(tmp_path: Path) -> None:
    silent, centre = {"segmentation": [[8, 8]]}, {"segmentation": [DIAMOND], "area": 13}
    edge = {"segmentation": [[8, 1, 10, 1, 10, 3, 8, 3]], "bbox": [8, 1, 2, 2]}
    expected = THIRTEEN | draw((8, 8), shape=(10, 12))
    for order in ([silent, centre], [centre, silent]):
        with pytest.warns(UserWarning, match="go through the centres"):
            np.testing.assert_array_equal(read(tmp_path, (10, 12), *order), expected)
    with pytest.warns(UserWarning, match="go through the centres"):
        both = read(tmp_path, (10, 12), edge, centre)
    np.testing.assert_array_equal(both, THIRTEEN | draw((slice(1, 3), slice(8, 10)), shape=(10, 12)))
    with (
        pytest.warns(UserWarning, match="go through the centres"),
        pytest.raises(LabelFileError, match=r"made.json, annotation 1: doesn't say by `bbox` or `area`"),
    ):
        read(tmp_path, (10, 12), edge, silent, centre)


SQUARE = [1, 1, 4, 1, 4, 4, 1, 4]


@pytest.mark.parametrize(
    "none", [[2, 2], [2, 2, 3, 3], [1.1, 1, 1.2, 1, 1.2, 1.1], [20, 1, 21, 1, 21, 2], [1, 1, 1, 1]]
)
def test_a_polygon_without_a_pixel_is_named_in_any_order(tmp_path: Path, none: list) -> None:
    for place, polygons in enumerate(([none, SQUARE], [SQUARE, none]), 1):
        with pytest.raises(LabelFileError, match=f"annotation 0: polygon {place} of 2 .* covers no pixel"):
            read(tmp_path, (10, 12), {"segmentation": polygons})


@pytest.mark.parametrize(
    ("annotation", "match"),
    [
        ({"segmentation": [[1e9, 1, 3, 1, 3, 3]]}, "polygon 1 of 1 leads far outside its image of 12 × 10"),
        ({"segmentation": [[-1e9, 1, 3, 1, 3, 3]]}, "far outside"),
        ({"segmentation": [[1e308, 1, 3, 1, 3, 3]]}, "isn't a list of numbers"),
        ({"segmentation": [[float("nan"), 1, 3, 1, 3, 3]]}, "isn't a list of numbers"),
        ({"segmentation": [[float("inf"), 1, 3, 1, 3, 3]]}, "isn't a list of numbers"),
        ({"segmentation": [[10**400, 1, 3, 1, 3, 3]]}, "isn't a list of numbers"),
        ({"segmentation": [[1, 1, 3, 1, 3]]}, "isn't a list of numbers"),
        ({"segmentation": [["1", 1, 3, 1, 3, 3]]}, "isn't a list of numbers"),
        ({"segmentation": [[True, 1, 3, 1, 3, 3]]}, "isn't a list of numbers"),
        ({"segmentation": [[[1, 1], [3, 1], [3, 3]]]}, "isn't a list of numbers"),
        ({"segmentation": [1, 1, 3, 1, 3, 3]}, "isn't a list of numbers"),
        ({"segmentation": [{"size": [10, 12], "counts": [120]}]}, "isn't a list of numbers"),
        ({"segmentation": [[]]}, "isn't a list of numbers"),
        ({"segmentation": [[0, 0, 12, 10] * 5000]}, "longer than all pixels' edges"),
        ({"segmentation": [SQUARE], "bbox": [1, 1, 3]}, "its `bbox` isn't a list of four numbers"),
        ({"segmentation": [SQUARE], "bbox": "1 1 3 3"}, "its `bbox` isn't"),
        ({"segmentation": [SQUARE], "bbox": [1, 1, None, 3]}, "its `bbox` isn't"),
        ({"segmentation": [SQUARE], "area": "9"}, "its `area` isn't a number"),
        ({"segmentation": [SQUARE], "area": float("nan")}, "its `area` isn't a number"),
        (
            {"segmentation": [SQUARE], "bbox": [1, 1, 6, 3]},
            r"fill the box \[1, 1, 3, 3\], its `bbox` is \[1, 1, 6, 3\]",
        ),
        ({"segmentation": [SQUARE], "area": 40}, "fill 9 pixels, its `area` is 40: mend"),
        ({"segmentation": [[x + 0.3 for x in DIAMOND]], "area": 13}, "fill . pixels, its `area` is 13: mend"),
    ],
)
def test_polygons_that_are_none(tmp_path: Path, annotation: dict, match: str) -> None:
    with pytest.raises(LabelFileError, match=f"made.json, annotation 0: .*{match}"):
        read(tmp_path, (10, 12), annotation)


@pytest.mark.parametrize("says", [{}, {"bbox": [1, 1, 3, 3]}, {"bbox": [1.4, 0.6, 3, 3], "area": 10}, {"area": 1}])
def test_what_others_round_is_taken(tmp_path: Path, says: dict) -> None:
    expected = draw((slice(1, 4), slice(1, 4)), shape=(10, 12))
    if says.get("area") == 1:
        with pytest.raises(LabelFileError, match="its `area` is 1"):
            read(tmp_path, (10, 12), {"segmentation": [SQUARE], **says})
    else:
        np.testing.assert_array_equal(read(tmp_path, (10, 12), {"segmentation": [SQUARE], **says}), expected)


def test_one_that_leads_a_little_outside_is_cut(tmp_path: Path) -> None:
    polygon = {"segmentation": [[-2, -2, 4, -2, 4, 4, -2, 4]], "bbox": [-2, -2, 6, 6]}
    expected = draw((slice(0, 4), slice(0, 4)), shape=(10, 12))
    np.testing.assert_array_equal(read(tmp_path, (10, 12), polygon), expected)
