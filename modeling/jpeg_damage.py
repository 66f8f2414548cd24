"""Detects JPEG files with missing data: the decoder fills in missing pixels and reports no error."""

import re
from hashlib import blake2b
from io import BytesIO
from typing import IO

import numpy as np
from PIL import Image

START, START_OF_SCAN, END = b"\xff\xd8", 0xDA, 0xD9
RESTART = re.compile(rb"\xff[\xd0-\xd7]")  # within a scan's data
SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
# Contains no marker. It begins with 0, as a part may be cut behind an FF, which with any other byte would be a marker.
OTHER_DATA = b"\0" + bytes(range(1, 251))
# A scan may also lack its last restart markers. A complete scan ignores these.
OTHER_RESTARTS = OTHER_DATA + b"".join(bytes([0xFF, 0xD0 + number]) + OTHER_DATA for number in range(8))

REMEMBERED = 100_000  # files
_whole: set[bytes] = set()  # hashes of files that were found to be complete


def jpeg_is_whole(image: Image.Image, file: IO[bytes]) -> bool:
    """
    Whether a JPEG file has the data of all its pixels.

    Where data end early, the decoder fills the rest with gray or a smear. So the file is decoded again with other data
    appended to each of its parts. A complete file's decoder doesn't read them, and the pixels stay the same. Each file
    is tested once: the process remembers those that were complete.

    Args:
        image: the decoded image, not rotated by its EXIF orientation.
        file: the file that it was decoded from.
    """
    file.seek(0)
    content = file.read()
    key = blake2b(content, digest_size=16).digest()
    if key in _whole:
        return True
    with Image.open(BytesIO(_with_other_data(content)), formats=["JPEG"]) as again:
        whole = np.array_equal(np.asarray(image), np.asarray(again))
    if whole and len(_whole) < REMEMBERED:
        _whole.add(key)
    return whole


def _with_other_data(content: bytes) -> bytes:
    """The file with other data appended to every scan, and inserted before every restart marker."""
    parts, place = [START], len(START)
    while place + 4 <= len(content) and content[place + 1] != END:
        if content[place + 1] == 0xFF:  # markers may be preceded by any number of these
            place += 1
            continue
        stop = place + 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        parts.append(content[place:stop])
        if content[place + 1] == START_OF_SCAN:
            end = SCAN_END.search(content, stop)
            data = content[stop : end.start() if end else len(content)]
            stop += len(data)
            parts.append(RESTART.sub(lambda marker: OTHER_DATA + marker[0], data) + OTHER_RESTARTS)
        place = stop
    return b"".join(parts) + content[place:]


__all__ = ["jpeg_is_whole"]
