import numpy as np
import pytest
from hypothesis import given, settings

from scalpel_hf.formats.brush_rle import decode_brush_rle, encode_brush_rle

from .small_sets import draw, masks

# By label-studio-converter 0.0.59, `brush.mask2rle`, of masks in which two diagonal pixels, and one pixel, are 255. It
# adds a byte of padding where none is needed, as in the second.
PUBLISHED = [
    (draw((1, 2), (2, 3), shape=(3, 5)), list(bytes.fromhex("0000003c391bfe1b008fff098047ff1800"))),
    (draw((1, 2), shape=(200, 300)), list(bytes.fromhex("0003a980391bff04b7008fffffff807ffff00ffffe01e930c000"))),
]


def written_out(rle: list[int]) -> list[int]:
    """The values of a stream, bit by bit from the format's definition, with no thought for speed or errors."""
    bits = iter([byte >> shift & 1 for byte in rle for shift in range(7, -1, -1)])

    def read(size: int) -> int:
        value = 0
        for _ in range(size):
            value = 2 * value + next(bits)
        return value

    total, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        repeated = read(1)
        length = read(sizes[read(2)]) + 1
        values += [read(word)] * length if repeated else [read(word) for _ in range(length)]
    return values


@pytest.mark.parametrize(("mask", "rle"), PUBLISHED)
def test_label_studios_own_bytes(mask: np.ndarray, rle: list[int]) -> None:
    np.testing.assert_array_equal(decode_brush_rle(rle, *mask.shape), mask)
    ours = encode_brush_rle(mask)
    assert ours in (rle, rle[:-1])


@given(masks())
@settings(deadline=None)
def test_round_trip_and_meaning(mask: np.ndarray) -> None:
    rle = encode_brush_rle(mask)
    np.testing.assert_array_equal(decode_brush_rle(rle, *mask.shape), mask)
    assert written_out(rle) == np.repeat(mask.ravel() * 255, 4).tolist()


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 64, 65, 16383, 16384, 16385, 40000])
def test_runs_around_every_size_of_length(length: int) -> None:
    mask = np.ones((1, length + 1), bool)
    mask[0, -1] = False
    np.testing.assert_array_equal(decode_brush_rle(encode_brush_rle(mask), *mask.shape), mask)


def test_literal_values_and_half_transparent_strokes() -> None:
    values = [0, 0, 0, 127, 9, 9, 9, 128, 0, 0, 0, 255, 7, 7, 7, 0]
    bits = f"{16:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    bits += "0" + "01" + f"{15:04b}" + "".join(f"{value:08b}" for value in values)
    bits += "0" * (-len(bits) % 8)
    rle = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    assert written_out(rle) == values
    np.testing.assert_array_equal(decode_brush_rle(rle, 2, 2), [[False, True], [True, False]])


@pytest.mark.parametrize(
    ("rle", "match"),
    [
        ([], "holds 0 values"),
        ([0, 0, 0], "holds 0 values, 5 × 3 pixels need 60"),
        (PUBLISHED[0][1][:8], "cut off or damaged"),
        (PUBLISHED[0][1][:5], "holds 60 values"),
        ([0, 0, 0, 60, 1 << 7, *PUBLISHED[0][1][5:]], "values of 17 bits"),
        ([0, 0, 0, 61, *PUBLISHED[0][1][4:]], "holds 61 values"),
        (["a"], "isn't a list of bytes"),
        ([300], "isn't a list of bytes"),
        (None, "isn't a list of bytes"),
    ],
)
def test_damaged(rle: list, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        decode_brush_rle(rle, 3, 5)


def test_a_run_beyond_the_end() -> None:
    bits = f"{4:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16)) + "100" + f"{4:03b}" + "1" * 8
    bits += "0" * (-len(bits) % 8)
    with pytest.raises(ValueError, match="cut off or damaged"):
        decode_brush_rle([int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)], 1, 1)
