"""Frames as people have them, and splits by recording."""

import os
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from scalpel_hf import SyntheticInfrared
from scalpel_hf.cli import demo, run
from scalpel_hf.data.frame_sources import RESULTS, LeftOut, frames_dataset
from scalpel_hf.data.image_cells import undecoded
from scalpel_hf.data.splits import split_by_recording
from scalpel_hf.modeling.normalization import read_frame
from scalpel_hf.runtime.recordings import Damage
from scalpel_hf.runtime.sources import read_stream

CAMERA = SyntheticInfrared(size=(32, 40), bit_depth=16, seed=1)
FRAMES = [CAMERA.frame(index)["image"] for index in range(6)]


def load(root: Path, tmp_path: Path, **options: object) -> tuple[dict[str, np.ndarray], Dataset, list[str]]:
    left_out = LeftOut()
    rows = frames_dataset(root, tmp_path / "cache", left_out, **options)  # type: ignore[arg-type]
    return {row["name"]: read_frame(row["image"]) for row in undecoded(rows)}, rows, left_out.lines()


def test_images_in_nested_folders_pages_and_what_is_no_frame(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    (root / "b" / "deep").mkdir(parents=True)
    Image.fromarray(FRAMES[0]).save(root / "a.png")
    Image.fromarray(FRAMES[1]).save(root / "b" / "deep" / "a.TIF", format="TIFF")
    pages = [Image.fromarray(frame) for frame in FRAMES[2:5]]
    pages[0].save(root / "b" / "seq.tiff", save_all=True, append_images=pages[1:])
    (root / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (root / "notes.docx").write_text("mine")
    (root / "a.bmp").write_bytes((root / "a.png").read_bytes())  # the name of another frame
    frames, rows, left_out = load(root, tmp_path)
    expected = {"a": 0, "b_deep_a": 1, "b_seq_000000": 2, "b_seq_000001": 3, "b_seq_000002": 4}
    assert set(frames) == set(expected)
    for name, index in expected.items():
        np.testing.assert_array_equal(frames[name], FRAMES[index])
    recordings = dict(zip(rows["name"][:], rows["recording"][:], strict=True))
    assert recordings["b_seq_000001"] == "b/seq.tiff" and recordings["b_deep_a"] == "b/deep"
    assert set(rows["label_source"][:]) == {"none"} and rows[0]["mask"] is None and rows[0]["objects"] is None
    assert (rows[0]["width"], rows[0]["height"]) == (40, 32)
    assert len(left_out) == 3 and all(line.startswith("left out 1: ") for line in left_out)
    assert any("notes.docx (neither an image nor a recording by its name)" in line for line in left_out)
    assert any("a.png (another frame has the same name)" in line for line in left_out)
    assert any("broken.png (truncated, or not an image" in line for line in left_out)


def test_a_damaged_page_does_not_change_the_numbers_of_later_ones(tmp_path: Path) -> None:
    pages = [Image.fromarray(frame) for frame in FRAMES]
    path = tmp_path / "seq.tif"
    pages[0].save(path, save_all=True, append_images=pages[1:], compression="tiff_deflate")
    with Image.open(path) as image:
        image.seek(2)
        start, size = image.tag_v2[273][0], image.tag_v2[279][0]  # of the page's strip
    content = bytearray(path.read_bytes())
    content[start : start + size] = b"\xff" * size
    path.write_bytes(content)
    frames, _, left_out = load(path, tmp_path)
    assert list(frames) == [f"seq_{index:06d}" for index in (0, 1, 3, 4, 5)]
    assert list(frames) == [name for name, _ in read_stream(str(path), Damage())]
    for name, frame in frames.items():
        np.testing.assert_array_equal(frame, FRAMES[int(name[-6:])])
    assert len(left_out) == 1 and "1 damaged frames were left out" in left_out[0]


def test_files_whose_names_cannot_be_kept_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    root.mkdir()
    for name in (b"a\xff.png", b"b\nc.png", b"t\tab.png", b" sp .png", "é.png".encode(), b"in side.png"):
        Image.fromarray(FRAMES[0]).save(root / "new.png")
        os.rename(root / "new.png", os.fsencode(root) + b"/" + name)
    frames, _, left_out = load(root, tmp_path)
    assert set(frames) == {"é", "in side"}
    assert sorted(left_out) == [
        r"left out 1: 'a\udcff.png' (its name isn't UTF-8: rename it)",
        r"left out 3:  sp .png, 'b\nc.png', 't\tab.png' (its name has a line break, a tab or outer spaces: rename it)",
    ]


def test_files_at_the_root_belong_to_no_recording(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "night/c.png"):
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(FRAMES[0]).save(tmp_path / "mine" / name)
    _, rows, _ = load(tmp_path / "mine", tmp_path)
    assert rows["recording"][:] == ["", "", ""]
    (tmp_path / "mine" / "day").mkdir()
    Image.fromarray(FRAMES[0]).save(tmp_path / "mine" / "day" / "d.png")
    _, rows, _ = load(tmp_path / "mine", tmp_path)
    recordings = dict(zip(rows["name"][:], rows["recording"][:], strict=True))
    assert recordings == {"a": "", "b": "", "day_d": "day", "night_c": "night"}


def test_false_colours_are_told(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    root.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (32, 40, 3), np.uint8)
    Image.fromarray(noise).save(root / "iron.png")
    Image.fromarray(noise).quantize(16).save(root / "palette.png")
    gray = Image.fromarray(noise[..., 0])
    gray.convert("RGB").save(root / "gray.jpg")
    gray.convert("RGBA").save(root / "alpha.png")
    gray.save(root / "plain.png")
    frames, _, left_out = load(root, tmp_path)
    assert len(frames) == 5
    (line,) = left_out
    assert line.startswith("left out 2: the colours of iron.png, the colours of palette.png (converted to luma")


def test_frames_and_labels_in_one_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    Image.fromarray(FRAMES[0]).save(tmp_path / "mine" / "a.png")
    with pytest.raises(ValueError, match=r"mine has no frames: the 1 files in it are the labels \(.*mine\): give each"):
        load(tmp_path / "mine", tmp_path, without=tmp_path / "mine")


def test_recordings_keep_their_luma(tmp_path: Path) -> None:
    pytest.importorskip("av")
    from tests.runtime.made_by_hand import write_video

    (tmp_path / "mine").mkdir()
    write_video(tmp_path / "mine" / "clip.mkv", FRAMES, "ffv1", "gray16le")
    frames, rows, left_out = load(tmp_path / "mine", tmp_path, every=2, max_frames=2)
    assert list(frames) == ["clip_000000", "clip_000002"] and left_out == []
    np.testing.assert_array_equal(frames["clip_000002"], FRAMES[2])
    assert rows["recording"][:] == ["clip.mkv"] * 2
    alone, _, _ = load(tmp_path / "mine" / "clip.mkv", tmp_path)
    assert len(alone) == 6


def test_a_list_of_files(tmp_path: Path) -> None:
    Image.fromarray(FRAMES[0]).save(tmp_path / "a.png")
    Image.fromarray(FRAMES[1]).save(tmp_path / "b.png")
    (tmp_path / "list.txt").write_text("# mine\nb.png\n\nabsent.png\n")
    frames, _, left_out = load(tmp_path / "list.txt", tmp_path)
    assert list(frames) == ["b"] and left_out == ["left out 1: absent.png (there is no such file)"]


def test_a_list_of_whole_paths_names_frames_by_what_they_do_not_share(tmp_path: Path) -> None:
    for name in ("a/x.png", "b/x.png", "c.png"):
        (tmp_path / "far" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 7, np.uint8)).save(tmp_path / "far" / name)
    (tmp_path / "list.txt").write_text("".join(f"{tmp_path}/far/{name}\n" for name in ("a/x.png", "b/x.png")))
    assert list(load(tmp_path / "list.txt", tmp_path)[0]) == ["a_x", "b_x"]
    (tmp_path / "list.txt").write_text(f"{tmp_path}/far/c.png\n")
    assert list(load(tmp_path / "list.txt", tmp_path)[0]) == ["c"]


@pytest.mark.parametrize("folder", ["", "far/", "near/../far/", "{}/far/"])
def test_a_list_names_frames_alike_however_it_writes_their_folder(tmp_path: Path, folder: str) -> None:
    (tmp_path / "near").mkdir()
    for name in ("far/x.png", "far/y.png") if folder else ("x.png", "y.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(FRAMES[0]).save(tmp_path / name)
    start = folder.format(tmp_path)
    lines = [f"{start}x.png", f"{start}y.png"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    assert list(load(tmp_path / "list.txt", tmp_path)[0]) == ["x", "y"]
    (tmp_path / "list.txt").write_text(f"{lines[0]}\n{tmp_path / lines[1]}\n")
    assert list(load(tmp_path / "list.txt", tmp_path)[0]) == ["x", "y"], "relative and whole paths"


def test_earlier_results_in_the_folder_are_no_frames(tmp_path: Path) -> None:
    assert {run.MARKER, demo.MARKER} <= {*RESULTS}
    root = tmp_path / "mine"
    for place in ("a.png", "first/report/x.png", "prepared/train/y.png", "night/state/z.png"):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(FRAMES[0]).save(root / place)
    for marker in (f"first/{run.MARKER}", "first/report/state.json", "prepared/dataset_dict.json"):
        (root / marker).touch()
    (root / "state.json").touch()  # in the folder that is named itself
    frames, _, left_out = load(root, tmp_path)
    assert list(frames) == ["a", "night_state_z"]
    assert "left out 2: first/, prepared/ (results of this program, not frames)" in left_out


def test_names_of_frames_may_be_as_long_as_names_of_files(tmp_path: Path) -> None:
    (tmp_path / "mine" / ("f" * 100)).mkdir(parents=True)
    for name in ("g" * 99, "h" * 100):
        Image.fromarray(FRAMES[0]).save(tmp_path / "mine" / ("f" * 100) / f"{name}.png")
    (tmp_path / "mine" / ("f" * 100) / f"{'i' * 93}.mp4").touch()
    frames, _, left_out = load(tmp_path / "mine", tmp_path)
    assert [len(name) for name in frames] == [200]
    assert len(left_out) == 1 and left_out[0].startswith("left out 2: ") and "longer than 200 bytes" in left_out[0]


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder or file .*absent"):
        load(tmp_path / "absent", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no frames: it is empty"):
        load(tmp_path / "empty", tmp_path)
    (tmp_path / "empty" / "a.txt").write_text("text")
    with pytest.raises(ValueError, match=r"has no frames:\n  left out 1: a.txt \(neither"):
        load(tmp_path / "empty", tmp_path)
    (tmp_path / "empty" / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="not one frame can be used:"):
        load(tmp_path / "empty", tmp_path)


def rows_of(recordings: str, labelled: str) -> Dataset:
    sources = ["human" if mark == "x" else "none" for mark in labelled]
    return Dataset.from_dict({"recording": [r.strip("-") for r in recordings], "label_source": sources})


def test_whole_recordings_are_held_out() -> None:
    rows = rows_of("aaaabbbbccccdddd", "x..xx..xx..xx..x")
    splits, unused = split_by_recording(rows, {"validation": 0.0, "test": 0.25})
    (held_out,) = set(splits["test"]["recording"])
    assert held_out not in splits["train"]["recording"][:] and len(splits["train"]) == 12
    assert splits["test"]["label_source"][:] == ["human"] * 2 and unused == 2
    assert list(splits) == ["train", "test"]
    again, _ = split_by_recording(rows, {"validation": 0.0, "test": 0.25})
    assert again["test"]["recording"][:] == splits["test"]["recording"][:]


def test_frames_of_no_recording_are_drawn_one_by_one() -> None:
    splits, unused = split_by_recording(rows_of("-" * 20, "x" * 10 + "." * 10), {"validation": 0.2, "test": 0.3})
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 15, "validation": 2, "test": 3}
    assert unused == 0 and splits["train"]["label_source"][:].count("human") == 5


def test_too_few_recordings_to_hold_one_out() -> None:
    with pytest.raises(ValueError, match=r"the 3 labelled frames come from too few recordings, 1, for 2 splits"):
        split_by_recording(rows_of("aaaab", "xxx.."), {"test": 0.3})
    with pytest.raises(ValueError, match="leave nothing to train on"):
        split_by_recording(rows_of("ab", "xx"), {"validation": 0.5, "test": 0.5})
    splits, _ = split_by_recording(rows_of("abc", "xxx"), {"validation": 0.9, "test": 0.05})
    assert [len(rows) for rows in splits.values()] == [1, 1, 1]


def test_boxes_and_points_are_held_out_where_few_masks_show_a_target() -> None:
    rows = Dataset.from_dict({"label_source": ["box"] * 4 + ["none"] * 4 + ["point"] * 4})
    splits, _ = split_by_recording(rows, {"test": 0.5})
    assert len(splits["test"]) == 4 and "none" not in splits["test"]["label_source"][:]
    # A person who says that a frame has no target has drawn an empty mask: it tells nothing of IoU.
    objects = [{"bbox": [[0.0, 0.0, 2.0, 2.0]]}] * 8 + [{"bbox": []}] * 20
    rows = Dataset.from_dict({"label_source": ["box"] * 8 + ["human"] * 20, "objects": objects})
    splits, _ = split_by_recording(rows, {"test": 0.5})
    assert len(splits["test"]) == 14 and "box" in splits["test"]["label_source"][:]


def test_boxes_and_points_stay_in_training_where_there_are_masks() -> None:
    rows = Dataset.from_dict({"label_source": ["box"] * 4 + ["human"] * 12 + ["point"] * 4})
    splits, unused = split_by_recording(rows, {"test": 0.5})
    assert splits["test"]["label_source"][:] == ["human"] * 6 and unused == 0
    kinds, recordings = ["human"] * 6 + ["box"], ["a"] * 7 + ["b"] * 7
    splits, unused = split_by_recording(
        Dataset.from_dict({"recording": recordings, "label_source": kinds * 2}), {"test": 0.5}
    )
    assert splits["test"]["label_source"][:] == ["human"] * 6 and unused == 1  # a held-out recording teaches nothing
    with pytest.raises(ValueError, match="no frame has a person's label to measure by: hold out none"):
        split_by_recording(Dataset.from_dict({"label_source": ["none"] * 3}), {"test": 0.5})
    assert len(split_by_recording(rows.select([1, 3]), {"test": 0.0})[0]["train"]) == 2
