"""Archives of files for a machine that only little can be sent to, in which frames and weights take less space."""

import io
import math
import re
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load, save

from scalpel_hf.utils.files import whole_folder

PART = r"part-\d+\.tar"
WEBP, HALF = ".webp", ".half"  # added to the name of a file that is packed otherwise than it is


def packed(name: str, path: Path) -> tuple[str, bytes]:
    """A file's name and bytes in the archive; an error names the file."""
    try:
        return _packed(name, path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} can't be read: {error}") from error


def _packed(name: str, path: Path) -> tuple[str, bytes]:
    if path.suffix == ".safetensors":
        weights = load(path.read_bytes())
        return name + HALF, save({key: w.half() if w.dtype == torch.float32 else w for key, w in weights.items()})
    if path.suffix == ".png":
        with Image.open(path) as image:
            bands = [band.tobytes() for band in image.split()] if image.mode in ("L", "RGB") else []
            if bands and all(band == bands[0] for band in bands):
                buffer = io.BytesIO()
                image.getchannel(0).save(buffer, "WEBP", lossless=True)
                return name + WEBP, buffer.getvalue()
    return name, path.read_bytes()


def unpacked(name: str, content: bytes) -> tuple[str, bytes]:
    """A file's name and bytes from those in the archive; weights are in single precision again."""
    if name.endswith(HALF):
        weights = load(content)
        single = {key: w.float() if w.dtype == torch.float16 else w for key, w in weights.items()}
        return name.removesuffix(HALF), save(single, {"format": "pt"})
    if name.endswith(WEBP):
        buffer = io.BytesIO()
        Image.open(io.BytesIO(content)).convert("L").save(buffer, "PNG", compress_level=1)
        return name.removesuffix(WEBP), buffer.getvalue()
    return name, content


def files_below(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder")
    if not (files := [path for path in sorted(folder.rglob("*")) if path.is_file()]):
        raise FileNotFoundError(f"{folder} holds no files")
    return files


def write_archives(entries: Iterable[tuple[str, bytes]], folder: Path, megabytes: float) -> None:
    """Archives of at most so many megabytes, or of one file, in place of the folder that was there."""
    check_archives_alone(folder)
    with whole_folder(folder, replace=True) as written, ExitStack() as archives:
        count, size = 0, math.inf
        for name, content in entries:
            taken = 1024 + len(content)  # a header, and what fills the last block
            if size + taken > 1e6 * megabytes:
                archives.close()
                archive = archives.enter_context(tarfile.open(written / f"part-{count}.tar", "w"))
                count, size = count + 1, 10_240  # the end of an archive
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
            size += taken
    print(f"{count} archives in {folder}", flush=True)


def check_archives_alone(folder: Path) -> None:
    """Raise `FileExistsError` where a folder to be replaced holds anything else, or is none."""
    if folder.exists() and not (folder.is_dir() and all(re.fullmatch(PART, path.name) for path in folder.iterdir())):
        raise FileExistsError(f"{folder} holds other things than archives of this program: name another folder")


def read_archives(folder: Path) -> Iterator[tuple[str, bytes]]:
    paths = files_below(folder)
    if missing := {f"part-{number}.tar" for number in range(len(paths))} - {path.name for path in paths}:
        raise FileNotFoundError(f"{folder} lacks {min(missing)}, or holds other files: fetch it again")
    for path in paths:
        content = path.read_bytes()
        if content[-1024:].strip(b"\0") or len(content) < 1024:  # how an archive ends
            raise ValueError(f"{path} is no whole archive: fetch it again")
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for entry in archive:
                if (file := archive.extractfile(entry)) is not None:
                    yield entry.name, file.read()


def write_below(folder: Path, files: Iterable[tuple[str, bytes]]) -> None:
    for name, content in files:
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{name} would be written outside of {folder}")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
