"""
Label Studio's run-length encoding of brush masks.

A bit stream, most significant bit first, of an image's bytes in the order R, G, B, A, row by row:

    32 bits      number of values, 4 · W · H
     5 bits      size of a value in bits, less 1
    4 × 4 bits   four sizes of run lengths in bits, each less 1
    then runs    1 bit: repeated value or literal values; 2 bits: which of the four sizes; the length, less 1, in that
                 many bits; the value once, or all of the values

It is the encoding of @thi.ng/rle-pack, which Label Studio uses. The Python package that implements it,
label-studio-converter, depends on nltk and pandas; hence this implementation.
"""

from collections.abc import Sequence

import numpy as np

VALUE_BITS = 8
LENGTH_BITS = (3, 4, 8, 16)
CHANNELS = 4
LONGEST = 2 ** LENGTH_BITS[-1]
HEADER_BITS = 32 + 5 + 4 * len(LENGTH_BITS)


def encode_brush_rle(mask: np.ndarray) -> list[int]:
    """
    Encode a mask `(H, W)`, target where it isn't 0, as Label Studio does: target pixels are 255 in all four channels.

    Returns the bytes as numbers from 0 to 255. Raises `ValueError` for a mask of 2³⁰ pixels or more, which the format
    can't count.

    Examples:
        >>> mask = np.eye(3, dtype=bool)
        >>> np.array_equal(decode_brush_rle(encode_brush_rle(mask), height=3, width=3), mask)
        True
    """
    flat = np.asarray(mask).ravel() != 0
    if CHANNELS * flat.size >= 2**32:
        raise ValueError(f"a brush mask has at most 2^30 - 1 pixels, this one {flat.size}")
    bits = [f"{CHANNELS * flat.size:032b}{VALUE_BITS - 1:05b}", *(f"{size - 1:04b}" for size in LENGTH_BITS)]
    starts = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1])
    lengths = np.diff(starts, append=flat.size) * CHANNELS
    for start, length in zip(starts, lengths.tolist(), strict=True):
        value = f"{255 if flat[start] else 0:0{VALUE_BITS}b}"
        while length > 0:
            run = min(length, LONGEST)
            choice = next(i for i, size in enumerate(LENGTH_BITS) if run <= 2**size)
            bits.append(f"1{choice:02b}{run - 1:0{LENGTH_BITS[choice]}b}{value}")
            length -= run
    stream = "".join(bits)
    stream += "0" * (-len(stream) % 8)
    return list(int(stream, 2).to_bytes(len(stream) // 8, "big"))


def decode_brush_rle(rle: Sequence[int], height: int, width: int) -> np.ndarray:
    """
    Decode Label Studio's bytes to a mask `(H, W)` bool.

    A pixel is target where its alpha channel exceeds 127. The browser's brush paints 255 in the middle of a stroke and
    less at its edge. Raises `ValueError` where `rle` isn't a list of bytes, is cut off, or holds an image of another
    size.
    """
    if not isinstance(rle, list | tuple) or not all(type(byte) is int and 0 <= byte < 256 for byte in rle):
        raise ValueError("the RLE isn't a list of bytes")
    content = bytes(rle)
    stream = "".join(f"{byte:08b}" for byte in content)
    total = int(stream[:32] or "0", 2)
    if len(stream) < HEADER_BITS or total != CHANNELS * height * width:
        raise ValueError(f"the RLE holds {total} values, {width} × {height} pixels need {CHANNELS * height * width}")
    if int(stream[32:37], 2) + 1 != VALUE_BITS:
        raise ValueError(f"the RLE has values of {int(stream[32:37], 2) + 1} bits, an image's have {VALUE_BITS}")
    length_bits = [int(stream[i : i + 4], 2) + 1 for i in range(37, HEADER_BITS, 4)]
    values = np.zeros(total, np.uint8)
    done, at = 0, HEADER_BITS
    while done < total:
        repeated, choice = stream[at : at + 1] == "1", stream[at + 1 : at + 3]
        size = length_bits[int(choice or "0", 2)]
        length = int(stream[at + 3 : at + 3 + size] or "0", 2) + 1
        at += 3 + size
        end = at + VALUE_BITS * (1 if repeated else length)
        if end > len(stream) or done + length > total:
            raise ValueError(f"the RLE is cut off or damaged: it breaks off after {done} of {total} values")
        values[done : done + length] = [int(stream[i : i + VALUE_BITS], 2) for i in range(at, end, VALUE_BITS)]
        done, at = done + length, end
    return values.reshape(height, width, CHANNELS)[:, :, 3] > 127
