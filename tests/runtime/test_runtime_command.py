"""The command in the field: what was found stays, whatever ends it; what is missing is said, and exit codes tell."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper

from scalpel_hf.cli.program import Terminated
from scalpel_hf.runtime.__main__ import main
from scalpel_hf.runtime.lines import JsonLines
from scalpel_hf.runtime.overlay import Overlay
from scalpel_hf.runtime.recordings import Damage
from scalpel_hf.runtime.results import Result
from scalpel_hf.utils.files import DiskFullError
from tests.interrupts import ROOT, start
from tests.runtime.made_by_hand import (
    TARGETS,
    frame_with_targets,
    write_config,
    write_detector,
    write_graph,
    write_student,
    write_video,
)


def frames_in(folder: Path, count: int) -> Path:
    folder.mkdir()
    for index in range(count):
        Image.fromarray(frame_with_targets()).save(folder / f"{index:03}.png")
    return folder


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def result(name: str) -> Result:
    return Result(name, frame_with_targets(), np.zeros((0, 4)), np.zeros(0))


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scalpel_hf.runtime", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]


def start_predicting(*arguments: object) -> "subprocess.Popen[str]":
    return start([sys.executable, "-m", "scalpel_hf.runtime", *map(str, arguments)], stdout=subprocess.DEVNULL)


def wait_for(condition: Callable[[], object]) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come in a minute")


def endless(tmp_path: Path) -> Path:
    """A folder of frames for many seconds."""
    folder = frames_in(tmp_path / "frames", 1)
    for index in range(1, 3000):
        (folder / f"{index:05}.png").symlink_to(folder / "000.png")
    return folder


def test_broken_files_among_good_ones(tmp_path: Path) -> None:
    student, frames, out = write_student(tmp_path / "s"), frames_in(tmp_path / "frames", 6), tmp_path / "boxes.jsonl"
    (frames / "002.png").write_bytes(b"broken")
    (frames / "005.png").write_bytes((frames / "005.png").read_bytes()[:300])
    done = run(student, frames, "--out", out)
    assert done.returncode == 3
    assert [line["frame"] for line in read_lines(out)] == ["000.png", "001.png", "003.png", "004.png"]
    assert "4 frames" in done.stderr and "2 damaged frames were left out" in done.stderr
    assert "002.png" in done.stderr and "005.png" in done.stderr and "Traceback" not in done.stderr


def test_a_recording_that_was_cut(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.avi", [frame_with_targets()] * 30, "ffv1", "gray16le")
    content = video.read_bytes()
    video.write_bytes(content[: len(content) // 3])
    done = run(write_student(tmp_path / "s"), video, "--out", tmp_path / "boxes.jsonl")
    found = read_lines(tmp_path / "boxes.jsonl")
    assert done.returncode == 3 and 3 < len(found) < 30
    assert [line["frame"] for line in found] == [f"a_{index:06d}" for index in range(len(found))]
    assert "missing at its end" in done.stderr


def test_damage_in_the_middle_leaves_a_gap_in_the_numbers(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.avi", [frame_with_targets()] * 20, "ffv1", "gray16le")
    content = bytearray(video.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    video.write_bytes(content)
    done = run(write_student(tmp_path / "s"), video, "--out", tmp_path / "boxes.jsonl")
    numbers = [int(line["frame"].removeprefix("a_")) for line in read_lines(tmp_path / "boxes.jsonl")]
    assert done.returncode == 3 and "damaged frames were left out" in done.stderr
    assert numbers[0] == 0 and numbers[-1] == 19 and 5 < len(numbers) < 20
    assert all(line["boxes"] == TARGETS for line in read_lines(tmp_path / "boxes.jsonl"))


@pytest.mark.parametrize("all_of_them", [False, True])
def test_frames_that_the_model_has_no_answer_for(
    tmp_path: Path, capsys: pytest.CaptureFixture, all_of_them: bool
) -> None:
    """Not "no targets": their prediction is NaN, here where a frame's first pixel is its lowest."""
    first = {"starts": np.zeros(4, np.int64), "ends": np.ones(4, np.int64), "level": np.float32(-3)}
    if all_of_them:
        first["level"] = np.float32(1e9)
    nodes = [
        helper.make_node("Slice", ["frames", "starts", "ends"], ["pixel"]),
        helper.make_node("Sub", ["pixel", "level"], ["above"]),
        helper.make_node("Sqrt", ["above"], ["root"]),  # NaN below
        helper.make_node("Mul", ["root", "zero"], ["nothing"]),
        helper.make_node("Add", ["frames", "nothing"], ["logits"]),
    ]
    values = (TensorProto.FLOAT, ["b", 1, "h", "w"])
    student = write_graph(
        tmp_path / "s", nodes, {"frames": values}, {"logits": values}, {**first, "zero": np.float32(0)}
    )
    frames = frames_in(tmp_path / "frames", 3)
    low = np.full((40, 50), 1000, np.uint16)
    low[0, 0] = 0
    Image.fromarray(low).save(frames / "001.png")
    command = [str(student), str(frames), "--out", str(tmp_path / "boxes.jsonl")]
    if all_of_them:
        with pytest.raises(ValueError, match="not one frame has a prediction"):
            main(command)
        assert not (tmp_path / "boxes.jsonl").exists()
    else:
        with pytest.raises(SystemExit, match="3"):
            main(command)
        assert [line["frame"] for line in read_lines(tmp_path / "boxes.jsonl")] == ["000.png", "002.png"]
    assert "001.png" in (said := capsys.readouterr().err) and "not all numbers" in said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_signals_leave_whole_lines(tmp_path: Path, number: int, code: int) -> None:
    out = tmp_path / "boxes.jsonl"
    process = start_predicting(write_student(tmp_path / "s"), endless(tmp_path), "--out", out)
    wait_for(lambda: out.exists() and out.stat().st_size > 2000)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    found = read_lines(out)
    assert len(found) > 10 and all(line["boxes"] == TARGETS for line in found)
    if number != signal.SIGKILL:
        assert "Traceback" not in said
        # A signal may come between a line and its counting.
        assert any(f"{len(found) - late} frames, " in said for late in (0, 1))


def test_two_programs_with_one_file_do_not_mix(tmp_path: Path) -> None:
    student, frames, out = write_student(tmp_path / "s"), endless(tmp_path), tmp_path / "boxes.jsonl"
    first = start_predicting(student, frames, "--out", out)
    wait_for(lambda: out.exists() and out.stat().st_size > 2000)
    second, third = run(student, frames, "--out", out), run(student, frames, "--out", out, "--overwrite")
    assert second.returncode == third.returncode == 1
    assert "exists: choose another name" in second.stderr
    assert "another program writes to" in third.stderr
    first.terminate()
    first.communicate(timeout=60)
    names = [line["frame"] for line in read_lines(out)]
    assert names == sorted(set(names))


def test_an_earlier_result_is_replaced_when_asked_and_only_by_a_line(tmp_path: Path) -> None:
    student, frames, out = write_student(tmp_path / "s"), frames_in(tmp_path / "frames", 1), tmp_path / "boxes.jsonl"
    out.write_text("of yesterday, and much longer than a line of today's\n" * 20)
    with pytest.raises(FileExistsError, match=r"boxes\.jsonl exists: .*--overwrite"):
        main([str(student), str(frames), "--out", str(out)])
    with pytest.raises(FileNotFoundError):
        main([str(student), str(tmp_path / "nowhere"), "--out", str(out), "--overwrite"])
    assert "of yesterday" in out.read_text()
    main([str(student), str(frames), "--out", str(out), "--overwrite"])
    assert len(read_lines(out)) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, Terminated, OSError("the disk is gone")])
@pytest.mark.parametrize("outputs", [["--out", "found.json", "--format", "coco"], ["--overlay", "found.mp4"]])
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_part_replaces_no_earlier_result_unless_it_is_a_streams(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    outputs: list[str],
    error: type[BaseException] | BaseException,
    is_stream: bool,
) -> None:
    pytest.importorskip("av")

    def broken_off(source: str, damage: Damage) -> Iterator[tuple[str, np.ndarray]]:
        yield from ((str(index), frame_with_targets()) for index in range(3))
        raise error

    monkeypatch.setattr("scalpel_hf.runtime.__main__.read_stream", broken_off)
    student, frames = write_student(tmp_path / "s"), frames_in(tmp_path / "frames", 3)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    found = Path(outputs[1])
    found.write_text("of yesterday")
    source = "rtsp://camera/stream" if is_stream else str(frames)
    with pytest.raises(error if isinstance(error, type) else type(error)):
        main([str(student), source, *outputs, "--overwrite"])
    assert (found.read_bytes() == b"of yesterday") == (not is_stream)
    assert list(Path.cwd().iterdir()) == [found.absolute()]


def test_an_overlay_that_cannot_be_finished_replaces_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av")
    seen = tmp_path / "seen.mp4"
    seen.write_text("of yesterday")
    overlay = Overlay(seen)
    overlay.write(result("first"))
    monkeypatch.setattr(overlay, "_stream", None)  # what is left in the encoder can't be had
    with pytest.raises(AttributeError):
        overlay.close()
    assert seen.read_text() == "of yesterday" and list(tmp_path.iterdir()) == [seen]


def test_a_full_disk_keeps_the_whole_lines(tmp_path: Path) -> None:
    """A limit on the file's size stands in for the disk's: the line that does not fit is written in part first."""
    limit = 1500
    done = run(
        write_student(tmp_path / "s"),
        frames_in(tmp_path / "frames", 60),
        *("--out", tmp_path / "boxes.jsonl"),
        preexec_fn=lambda: (
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        ),
    )
    found = read_lines(tmp_path / "boxes.jsonl")
    assert done.returncode == 1
    assert 5 < len(found) < 60 and limit - 150 < (tmp_path / "boxes.jsonl").stat().st_size <= limit
    assert f"error: there is no room for {tmp_path}/boxes.jsonl: {len(found)} lines are in it" in done.stderr


def test_half_a_line_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, lines = os.write, JsonLines(tmp_path / "a.jsonl")

    def full(file: int, content: bytes) -> int:
        if b"second" in content:
            return write(file, content[:5])
        raise OSError(28, "No space left on device")

    with closing(lines):
        lines.write(result("first"))
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(DiskFullError, match=r"a\.jsonl: 1 lines"):
            lines.write(result("second"))
        monkeypatch.undo()
        lines.write(result("third"))
    assert [line["frame"] for line in read_lines(tmp_path / "a.jsonl")] == ["first", "third"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "100000"], "the number of threads is from 1 to 256, got 100000"),
        (["--tile-size", "1"], "the tiles' size is a multiple of 32 from 256 to 8192, got 1"),
        (["--threshold", "nan"], "a probability from 0 to 1, got nan"),
        (["--threshold", "7"], "a probability from 0 to 1, got 7.0"),
        (["--threshold", "-1"], "a probability from 0 to 1, got -1.0"),
        (["--file", "../model.onnx"], "model.onnx"),
        (["--file", "runtime.json"], "runtime.json"),
        (["--out", "."], "is no file"),
        (["--out", f"{__file__}/boxes.jsonl"], "is a file: choose another `--out`"),
        (["--overlay", f"{__file__}/seen.mp4"], "is a file: choose another `--overlay`"),
    ],
)
def test_wrong_arguments_are_errors_before_a_frame_is_read(tmp_path: Path, arguments: list[str], message: str) -> None:
    student = write_student(tmp_path / "s")
    with pytest.raises((ValueError, OSError), match=message.replace(".", r"\.")):
        main([str(student), str(frames_in(tmp_path / "frames", 1)), *arguments])


@pytest.mark.parametrize("option", ["--out", "--overlay"])
def test_the_input_is_never_replaced(tmp_path: Path, option: str) -> None:
    (tmp_path / "seen.mp4").write_bytes(b"mine")
    student = write_student(tmp_path / "s")
    with pytest.raises(ValueError, match=rf"is the input, which is never replaced: choose another `{option}`"):
        main([str(student), str(tmp_path / "seen.mp4"), option, f"{tmp_path}/s/../seen.mp4", "--overwrite"])
    assert (tmp_path / "seen.mp4").read_bytes() == b"mine"


def test_two_outputs_in_one_file_are_refused(tmp_path: Path) -> None:
    student, frames = write_student(tmp_path / "s"), frames_in(tmp_path / "frames", 1)
    with pytest.raises(ValueError, match=r"^`--out` and `--overlay` are the same file, .*same\.mp4: choose another"):
        main([str(student), str(frames), "--out", f"{tmp_path}/same.mp4", "--overlay", f"{tmp_path}/s/../same.mp4"])
    assert not (tmp_path / "same.mp4").exists()


def test_errors_are_one_line_and_the_help_tells_the_codes(tmp_path: Path) -> None:
    write_config(write_detector(tmp_path / "s"), threshold=float("nan"))
    done = run(tmp_path / "s", tmp_path, "--out", tmp_path / "boxes.jsonl")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: ")
    assert not (tmp_path / "boxes.jsonl").exists()
    assert run().returncode == 2
    help_text = run("--help").stdout
    for code in ("0 ", "1 ", "2 ", "3 ", "130", "143", "141"):
        assert code in help_text.split("exit codes:")[1]


def test_who_reads_has_gone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scalpel_hf.runtime", str(write_student(tmp_path / "s")), str(endless(tmp_path))]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert json.loads(process.stdout.readline())["boxes"] == TARGETS
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 141 and "Traceback" not in said and "Exception" not in said
