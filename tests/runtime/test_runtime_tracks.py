"""Targets through the frames, as lines, as COCO and drawn."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnxruntime")
from scalpel_hf.data.frame_sources import LeftOut
from scalpel_hf.formats.own_frames import load_own_frames
from scalpel_hf.runtime.__main__ import main
from scalpel_hf.runtime.recordings import Damage, _decoded
from scalpel_hf.runtime.results import Result
from scalpel_hf.runtime.tracks import PATIENCE, Tracker
from tests.runtime.made_by_hand import write_student, write_video

FRAMES, SHAPE = 30, (60, 81)


def result(name: str, *centres: tuple[float, float]) -> Result:
    boxes = np.array([(x - 1, y - 1, x + 1, y + 1) for x, y in centres]).reshape(-1, 4)
    return Result(name, np.zeros(SHAPE, np.uint8), boxes, np.full(len(boxes), 0.9))


def followed(frames: list[list[tuple[float, float]]], min_frames: int = 1) -> list[Result]:
    tracker, out = Tracker(min_frames), []
    for index, centres in enumerate(frames):
        out += tracker.push(result(str(index), *centres), index)
    out += tracker.rest()
    assert [one.name for one in out] == [str(index) for index in range(len(frames))]
    return out


def test_two_targets_that_cross_keep_their_numbers() -> None:
    frames = [[(10.0 + 2 * i, 20.0 + i), (70.0 - 2 * i, 20.0 + i)][:: 1 if i % 2 else -1] for i in range(31)]
    numbers = [one.tracks[:: 1 if index % 2 else -1].tolist() for index, one in enumerate(followed(frames))]
    del numbers[15]  # where they are in one place
    assert numbers == [numbers[0]] * 30 and len(set(numbers[0])) == 2


def test_a_target_missed_in_a_few_frames_is_the_same_and_later_another() -> None:
    seen = [[(10.0 + 3 * i, 9.0)] for i in range(30)]
    for missed, tracks in ((PATIENCE, 1), (PATIENCE + 1, 2)):
        frames = [[] if 10 <= i < 10 + missed else centres for i, centres in enumerate(seen)]
        numbers = {number for one in followed(frames) for number in one.tracks}
        assert len(numbers) == tracks


def test_frames_left_out_take_their_time() -> None:
    for lost, tracks in ((PATIENCE, 1), (PATIENCE + 1, 2)):
        tracker = Tracker()
        numbers = [index for index in range(30) if not 10 <= index < 10 + lost]
        out = [one for index in numbers for one in tracker.push(result(str(index), (10.0 + 15 * index, 9.0)), index)]
        out += tracker.rest()
        assert len({number for one in out for number in one.tracks}) == tracks


def test_what_is_seen_in_too_few_frames_is_left_out_of_all_of_them() -> None:
    frames = [[(10.0 + i, 9.0), *([(60.0, 50.0)] if i in (3, 4) else [])] for i in range(20)]
    kept = followed(frames, min_frames=3)
    assert [len(one.boxes) for one in kept] == [1] * 20  # in its first frames too
    assert [len(one.boxes) for one in followed(frames, min_frames=2)].count(2) == 2
    assert [len(one.boxes) for one in followed(frames, min_frames=21)] == [0] * 20


def test_frames_are_held_back_no_longer_than_needed() -> None:
    tracker, held = Tracker(3), 0
    for index in range(100):
        noise = [(float(5 + 40 * (index % 2)), 50.0)] if index % 9 == 0 else []
        held += 1 - len(tracker.push(result(str(index), (10.0, 9.0), *noise), index))
        assert held <= 3 + PATIENCE
    assert len(tracker.rest()) == held


def test_far_jumps_and_empty_frames_are_other_targets() -> None:
    numbers = [one.tracks.tolist() for one in followed([[], [(5.0, 5.0)], [(60.0, 50.0)], [], [(5.0, 5.0)]])]
    assert numbers == [[], [1], [2], [], [1]]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """One target that moves, and flashes in single frames."""
    frames = [np.random.default_rng(i).integers(100, 104, SHAPE).astype(np.uint8) for i in range(FRAMES)]
    for index, frame in enumerate(frames):
        frame[20, 5 + 2 * index] = 255
        if index % 7 == 3:
            frame[50, 70 - index] = 255
    return write_video(tmp_path / "a.mkv", frames, "ffv1", "gray")


def test_the_command_drops_flashes_numbers_targets_and_draws_them(tmp_path: Path, recording: Path) -> None:
    av = pytest.importorskip("av")
    student, out, seen = str(write_student(tmp_path / "s")), tmp_path / "boxes.jsonl", tmp_path / "seen.mp4"
    main([student, str(recording), "--out", str(out), "--track", "--min-frames", "4", "--overlay", str(seen)])
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["boxes"] for line in lines] == [[[5 + 2 * i, 20, 6 + 2 * i, 21]] for i in range(FRAMES)]
    assert {number for line in lines for number in line["tracks"]} == {1}
    with av.open(str(seen)) as container:
        shown = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 10  # as the recording's
    assert len(shown) == FRAMES and shown[0].shape == (60, 82, 3)
    red = shown[15][..., 0] - shown[15][..., 1]
    assert red[18:24, 33:39].max() > 60 and red[45:].max() < 60  # around the target, not around what was dropped
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mkv", "boxes.jsonl", "s", "seen.mp4"]


def test_a_fast_target_keeps_its_number_over_damaged_frames(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for index in range(12):
        frame = np.random.default_rng(index).integers(100, 104, (40, 220)).astype(np.uint8)
        frame[20, 10 + 15 * index] = 255
        Image.fromarray(frame).save(frames / f"{index:03}.png")
    for index in (5, 6, 7):
        (frames / f"{index:03}.png").write_bytes(b"damaged")
    with pytest.raises(SystemExit, match="3"):
        main([str(write_student(tmp_path / "s")), str(frames), "--track", "--min-frames", "6"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["tracks"] for line in lines] == [[1]] * 9


def test_min_frames_alone_gives_no_numbers(tmp_path: Path, recording: Path, capsys: pytest.CaptureFixture) -> None:
    student = str(write_student(tmp_path / "s"))
    main([student, str(recording), "--min-frames", "4"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == FRAMES and all(len(line["boxes"]) == 1 and "tracks" not in line for line in lines)
    main([student, str(recording)])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sum(len(line["boxes"]) for line in lines) == FRAMES + 4


def test_what_is_found_in_a_recording_can_be_corrected_and_learnt_from(tmp_path: Path, recording: Path) -> None:
    found = tmp_path / "found.json"
    main([str(write_student(tmp_path / "s")), str(recording), "--out", str(found), "--format", "coco"])
    rows = load_own_frames(recording, tmp_path / "work", LeftOut(), labels=found)
    assert len(rows) == FRAMES and set(rows["label_source"][:]) == {"box"}
    assert sum(len(objects["bbox"]) for objects in rows["objects"][:]) == FRAMES + 4


def test_coco(tmp_path: Path, recording: Path) -> None:
    pycocotools = pytest.importorskip("pycocotools.coco")
    student, out = str(write_student(tmp_path / "s")), tmp_path / "boxes.json"
    main([student, str(recording), "--out", str(out), "--format", "coco", "--track"])
    coco = pycocotools.COCO(str(out))
    assert len(coco.imgs) == FRAMES and len(coco.anns) == FRAMES + 4
    (annotation,) = coco.loadAnns(coco.getAnnIds(imgIds=[3], areaRng=[0, 2]))[:1]
    assert annotation["bbox"] == [9, 20, 1, 1] and annotation["area"] == 1 and annotation["track_id"] == 1
    assert 0.5 < annotation["score"] <= 1
    assert coco.imgs[1] == {"id": 1, "file_name": f"{recording.stem}_000000", "width": 81, "height": 60}
    with pytest.raises(FileExistsError, match=r"boxes\.json exists"):
        main([student, str(recording), "--out", str(out), "--format", "coco"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--min-frames", "0"], "from 1 to 1000, got 0"),
        (["--min-frames", "100000"], "from 1 to 1000"),
        (["--format", "coco"], "name it with `--out`"),
        (["--overlay", "seen.txt"], "an .mp4, .mkv or .mov, got seen.txt"),
    ],
)
def test_wrong_arguments(tmp_path: Path, recording: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        main([str(write_student(tmp_path / "s")), str(recording), *arguments])


@pytest.mark.parametrize(
    ("source", "is_cut"), [("rtsp://camera/stream", True), ("/dev/video0", True), ("a.mkv", False)]
)
def test_a_cameras_stream_that_ends_was_cut(source: str, is_cut: bool) -> None:
    class Ended:
        def demux(self, stream: object) -> object:
            return iter(())

    damage = Damage()
    assert list(_decoded(Ended(), None, source=source, clock=None, damage=damage)) == []
    assert bool(damage) == is_cut
