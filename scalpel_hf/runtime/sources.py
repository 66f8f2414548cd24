"""Frames from image files, folders, multi-page TIFFs, videos and cameras, one at a time."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scalpel_hf.modeling.frame_reading import read_frame, read_pages

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".tif", ".tiff"}


def read_stream(source: str) -> Iterator[tuple[str, np.ndarray]]:
    """
    Name and pixels `(H, W)` of each frame of a source, at the source's own depth: nothing is scaled or clipped.

    Args:
        source: an image, multi-page ones included; a folder of images, in the order of their names; a video file; a
            stream's address (`rtsp://...`, `http://...`); a camera (`/dev/video0`). The last three need PyAV
            (`pip install "scalpel-hf[video]"`).

    Raises:
        FileNotFoundError: where there is no such file, or no image in the folder.
        ImportError: for a video without PyAV.
        OSError, ValueError: where a file can't be read.
    """
    path = Path(source)
    if path.is_dir():
        yield from _read_folder(path)
    elif path.suffix.lower() in IMAGE_SUFFIXES and "://" not in source:
        for index, frame in enumerate(read_pages(path)):
            yield f"{path.name}#{index}", frame
    elif "://" in source or path.exists():
        yield from _read_video(source)
    else:
        raise FileNotFoundError(f"{source} is neither a file, a folder nor a stream's address")


def _read_folder(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise FileNotFoundError(f"{folder} has no images: none of {', '.join(sorted(IMAGE_SUFFIXES))}")
    for file in files:
        yield file.name, read_frame(file)


def _read_video(source: str) -> Iterator[tuple[str, np.ndarray]]:
    try:
        import av
    except ImportError as error:
        raise ImportError('videos and cameras need PyAV: pip install "scalpel-hf[video]"') from error

    is_camera = source.startswith("/dev/")
    with av.open(source, format="v4l2" if is_camera else None) as container:
        if not container.streams.video:
            raise ValueError(f"{source} has no video in it")
        for index, frame in enumerate(container.decode(video=0)):
            # Luma is what infrared video has; sensors of more than 8 bits keep all of them.
            deep = any(component.bits > 8 for component in frame.format.components)
            yield f"#{index}", frame.to_ndarray(format="gray16le" if deep else "gray")
