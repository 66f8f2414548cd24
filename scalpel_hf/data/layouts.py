"""Folders of the public infrared small-target data sets: where frames, masks and split lists are."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from scalpel_hf.utils.image_files import find_images, frame_name, sequences_of
from scalpel_hf.utils.reading import read_text

from .masks import ABOVE_HALF, MaskValues
from .names import FrameNames, UnknownNameError, few

COMMON_LISTS = {
    "train": ("splits/train.txt", "train.txt"),
    "validation": ("splits/val.txt", "val.txt"),
    "test": ("splits/test.txt", "test.txt"),
}

SplitFiles = Mapping[str, str | Path | tuple[str, ...]]


@dataclass(frozen=True)
class Layout:
    """
    The folders and files of a data set. Of several candidates the first that exists is used.

    Args:
        images (`tuple[str, ...]`): candidates for the folder of frames, relative to the root.
        masks (`tuple[str, ...]`): candidates for the folder of masks, likewise.
        mask_suffixes (`tuple[str, ...]`): candidates for the text that follows the frame's name in its mask's name.
        split_lists (`dict`): for each split list, by its name, the list file of each split. The first is the default.
            If empty, those of `train.txt`, `val.txt` and `test.txt` are used that exist in the root or in `splits/`;
            without any, all frames are in `train`.
        mask_values (`MaskValues`, *optional*): meaning of the masks' values, if it can't be decided from them.
    """

    images: tuple[str, ...] = ("images",)
    masks: tuple[str, ...] = ("masks",)
    mask_suffixes: tuple[str, ...] = ("",)
    split_lists: Mapping[str, SplitFiles] = field(default_factory=dict)
    mask_values: MaskValues | None = None


@dataclass(frozen=True)
class Pair:
    """A frame's name and files. Missing files are `None`; `problem` describes what is wrong, if anything."""

    name: str
    image: Path | None
    mask: Path | None
    problem: str | None = None


def _official(*folders: str) -> dict[str, SplitFiles]:
    """Two split lists for published lists train, val and test: with val in train, as in the papers, and apart."""

    def files(name: str) -> tuple[str, ...]:
        return tuple(f"{folder}{name}.txt" for folder in folders)

    joined = {"train": files("trainval"), "test": files("test")}
    apart = {"train": files("train"), "validation": files("val"), "test": files("test")}
    return {"": joined, "-val": apart}


def _nuaa_sirst() -> Layout:
    lists = {
        "official-427": _official("splits/official-427/", "idx_427/"),
        "official-320": _official("splits/official-320/", "idx_320/"),
    }
    split_lists = {name + kind: files for name, kinds in lists.items() for kind, files in kinds.items()}
    split_lists["dnanet-50-50"] = {
        "train": ("splits/dnanet-50-50/train.txt", "50_50/train.txt", "img_idx/train_NUAA-SIRST.txt"),
        "test": ("splits/dnanet-50-50/test.txt", "50_50/test.txt", "img_idx/test_NUAA-SIRST.txt"),
    }
    return Layout(mask_suffixes=("_pixels0", ""), split_lists=split_lists)


LAYOUTS: dict[str, Layout] = {
    # Dai et al., WACV 2021. The authors' repository has idx_427/; 320 are the frames of its first release.
    "nuaa-sirst": _nuaa_sirst(),
    # Li et al., TIP 2022.
    "nudt-sirst": Layout(
        split_lists={
            "50-50": {
                "train": ("splits/train.txt", "50_50/train.txt", "img_idx/train_NUDT-SIRST.txt"),
                "test": ("splits/test.txt", "50_50/test.txt", "img_idx/test_NUDT-SIRST.txt"),
            }
        }
    ),
    # Zhang et al., CVPR 2022. As published, 85 masks have pixels with values between 0 and 255.
    "irstd-1k": Layout(
        images=("IRSTD1k_Img", "images"),
        masks=("IRSTD1k_Label", "masks"),
        split_lists={
            "official": {
                "train": ("trainval.txt", "splits/trainval.txt", "splits/train.txt", "img_idx/train_IRSTD-1K.txt"),
                "test": ("test.txt", "splits/test.txt", "img_idx/test_IRSTD-1K.txt"),
            }
        },
        mask_values=ABOVE_HALF,
    ),
    # Dai et al., TGRS 2023. "full" has frames without targets too; "v1fullv2target" leaves them out.
    "sirst-v2": Layout(
        images=("mixed", "images"),
        masks=("annotations/masks", "masks"),
        mask_suffixes=("_pixels0", ""),
        split_lists={
            "full": {"train": ("splits/trainval_full.txt",), "test": ("splits/test_full.txt",)},
            "full-val": {
                "train": ("splits/train_full.txt",),
                "validation": ("splits/val_full.txt",),
                "test": ("splits/test_full.txt",),
            },
            "v1fullv2target": {
                "train": ("splits/trainval_v1fullv2target.txt",),
                "test": ("splits/test_v1fullv2target.txt",),
            },
        },
    ),
    # Pascal VOC, with masks of one class, as `--format voc` writes it.
    "voc": Layout(images=("JPEGImages",), masks=("SegmentationClass",)),
    "generic": Layout(mask_suffixes=("", "_mask", "_pixels0")),
}


def find_pairs(layout: Layout, root: str | Path, split_list: str | SplitFiles | None = None) -> dict[str, list[Pair]]:
    """
    Find the frames and masks of each split, in the order of the lists. Images are not opened.

    A frame's name is that of its file without the suffix, preceded by its sub-folders: `b/f0.png` is `b_f0`. A mask is
    in the same sub-folder as its frame, or in any other if only one mask has its file name.

    Args:
        layout (`Layout`): the data set's layout.
        root (`str` or `Path`): the data set's folder.
        split_list (`str` or `dict`, *optional*): name of one of the layout's lists (default: the first), or the list
            file of each split, `{"train": "lists/a.txt", ...}`, relative to `root` or absolute.

    Raises:
        `FileNotFoundError`: if a folder or list file is missing, or a folder has no images.
        `ValueError`: if the split list is unknown, or a name occurs twice in a list, or in two lists that should be
            disjoint.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}: `root` is the folder that the data set lies in")
    images = _index(_existing(root, layout.images, "the frames"))
    masks = _index(_existing(root, layout.masks, "the masks"))
    masks |= {stem: masks[name] for stem, name in _by_stem(masks).items() if stem not in masks}
    frames, mask_names, unique_stems = FrameNames(images), FrameNames(masks), set(_by_stem(images).values())
    splits = {
        split: _frames_listed(names, frames, path)
        for split, (path, names) in _read_lists(layout, root, split_list).items()
    } or {"train": sorted(images)}
    _check_disjoint(splits)
    return {
        split: [
            _pair(
                name,
                images=images,
                masks=masks,
                frames=frames,
                mask_names=mask_names,
                suffixes=layout.mask_suffixes,
                has_unique_stem=name in unique_stems,
            )
            for name in names
        ]
        for split, names in splits.items()
    }


def sequences(layout: Layout, root: str | Path) -> dict[str, str]:
    """The sequence of each frame, as [`sequences_of`] tells it from the folders, by the frame's name."""
    folder = _existing(Path(root), layout.images, "the frames")
    found = sequences_of(path.relative_to(folder) for path in find_images(folder))
    return {frame_name(place): sequence for place, sequence in found.items()}


def _read_lists(layout: Layout, root: Path, split_list: str | SplitFiles | None) -> dict[str, tuple[Path, list[str]]]:
    """The file of each split's list, and the names in it."""
    if isinstance(split_list, Mapping):
        files: SplitFiles = split_list
    elif not layout.split_lists and split_list is None:
        files = {
            split: paths for split, paths in COMMON_LISTS.items() if any((root / path).is_file() for path in paths)
        }
    elif split_list is None:
        files = next(iter(layout.split_lists.values()))
    elif split_list in layout.split_lists:
        files = layout.split_lists[split_list]
    else:
        known = ", ".join(layout.split_lists) or "none, train.txt, val.txt and test.txt are found without"
        raise ValueError(f"no split list {split_list!r} here; by name: {known}; else give the file of each split")
    lists = {
        split: _existing(root, paths if isinstance(paths, tuple) else (paths,), f"the {split} list")
        for split, paths in files.items()
    }
    return {split: (path, _read_names(path)) for split, path in lists.items()}


def _existing(root: Path, candidates: tuple[str | Path, ...], what: str) -> Path:
    """The first candidate that exists in `root`. Raises `FileNotFoundError`, which says `what` is missing."""
    for candidate in candidates:
        if (root / candidate).exists():
            return root / candidate
    looked = ", ".join(map(str, candidates))
    raise FileNotFoundError(
        f"{root} doesn't have {what}: looked for {looked}. If its folders are others, use another layout; `generic` "
        "is a folder images/ beside a folder masks/"
    )


def _index(folder: Path) -> dict[str, list[Path]]:
    """Image files of a folder and its sub-folders by frame name."""
    index: dict[str, list[Path]] = {}
    for path in find_images(folder):
        index.setdefault(frame_name(path.relative_to(folder)), []).append(path)
    return index


def _by_stem(index: dict[str, list[Path]]) -> dict[str, str]:
    """Names in an index by the stem of the file, for stems that only one file has."""
    counts = Counter(stem for paths in index.values() for stem in {path.stem for path in paths})
    return {paths[0].stem: name for name, paths in index.items() if counts[paths[0].stem] == 1}


def _read_names(path: Path) -> list[str]:
    """The lines of a list. Raises `ValueError` if there are none."""
    names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not names:
        raise ValueError(f"{path} names no image")
    return names


def _frames_listed(listed: list[str], frames: FrameNames, path: Path) -> list[str]:
    """The frames that a list names. Unknown names stay as they are; [`_pair`] reports them."""
    names = [frames.get(name) or name for name in listed]
    if repeated := sorted(name for name, count in Counter(names).items() if count > 1):
        raise ValueError(f"{path} names {few(repeated)} more than once: remove the repeated lines")
    return names


def _check_disjoint(splits: dict[str, list[str]]) -> None:
    """Raise `ValueError` if splits share frames, except those like `trainval` and `val`, whose names share a part."""
    parts = {split: {part for part in ("train", "val", "test") if part in split} for split in splits}
    for one, other in combinations(splits, 2):
        shared = sorted(set(splits[one]) & set(splits[other]))
        if shared and not parts[one] & parts[other]:
            raise ValueError(f"the {one} and {other} lists share {few(shared)}: results on them would be meaningless")


def _pair(
    name: str,
    images: dict[str, list[Path]],
    masks: dict[str, list[Path]],
    frames: FrameNames,
    mask_names: FrameNames,
    suffixes: tuple[str, ...],
    has_unique_stem: bool,
) -> Pair:
    """
    The files of one frame.

    Args:
        name: the frame's name in its list.
        images: the frames' files by name.
        masks: the masks' files by name and by unique stem.
        frames: finds names of frames.
        mask_names: finds names of masks.
        suffixes: candidates for the text that follows the frame's name in its mask's name.
        has_unique_stem: whether the mask may be found by the frame's file name without its folder.
    """
    try:
        image_files = images[frames.find(name)]
    except UnknownNameError as error:
        return Pair(name, image=None, mask=None, problem=f"no such image: {error}")
    stems = dict.fromkeys([name, image_files[0].stem] if has_unique_stem else [name])
    wanted = [stem + suffix for stem in stems for suffix in suffixes]
    mask_files = next((masks[found] for mask in wanted if (found := mask_names.get(mask))), [])
    problem = None
    if not mask_files:
        problem = f"no mask {' or '.join(wanted)} for {image_files[0]}"
    elif len(image_files) > 1 or len(mask_files) > 1:
        problem = "several files: " + ", ".join(map(str, image_files if len(image_files) > 1 else mask_files))
    return Pair(name, image=image_files[0], mask=next(iter(mask_files), None), problem=problem)
