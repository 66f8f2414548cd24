"""Which files of an export belong together, whenever it is cut short and whatever was there before."""

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForObjectDetection, AutoModelForSemanticSegmentation, PreTrainedConfig

pytest.importorskip("onnxscript")
from scalpel_hf.export import export_student
from scalpel_hf.export.onnx_files import hash_state, whole_or_not_at_all
from scalpel_hf.runtime import load_exported
from scalpel_hf.runtime.settings import CONFIG_FILE, belonging_files, check_weights
from tests.runtime.made_by_hand import write_config, write_student
from tests.small_students import d_fine, segformer, small_student, yolos


def export(folder: Path, int8: bool, **config: object) -> None:
    """As an export writes its files, of graphs that differ with `threshold_inside`."""
    with whole_or_not_at_all(folder, CONFIG_FILE) as work:
        write_student(work, **config)
        if int8:
            write_student(work, "model_int8.onnx", **config)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_export_without_int8_takes_the_earlier_one_away(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "own.onnx").write_bytes(b"of the user")
    export(tmp_path / "out", int8=True)
    assert names(tmp_path / "out") == ["model.onnx", "model_int8.onnx", "own.onnx", "runtime.json"]
    export(tmp_path / "out", int8=False, threshold_inside=True)
    assert names(tmp_path / "out") == ["model.onnx", "own.onnx", "runtime.json"]


@pytest.mark.parametrize("moves", [0, 1, 2])
def test_an_export_cut_short_is_the_old_one_or_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    folder, replace, done = tmp_path / "out", os.replace, []
    export(folder, int8=True)

    def dies(source: str, target: str) -> None:
        if Path(target).parent == folder:
            if len(done) == moves:
                raise KeyboardInterrupt
            done.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        export(folder, int8=True, threshold_inside=True)
    for file in ("model.onnx", "model_int8.onnx")[: moves + 1]:
        if file in [Path(target).name for target in done]:
            with pytest.raises(ValueError, match=rf"{file} is another than runtime\.json .* export the model again"):
                load_exported(folder, file)
        else:
            assert not load_exported(folder, file).config.threshold_inside
    monkeypatch.undo()
    export(folder, int8=False, threshold_inside=True)
    assert load_exported(folder).config.threshold_inside
    assert names(folder) == ["model.onnx", "runtime.json"]


def test_an_export_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    export(tmp_path, int8=True)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="differs"), whole_or_not_at_all(tmp_path, CONFIG_FILE) as work:
        write_student(work, threshold_inside=True)
        raise ValueError("ONNX differs from torch")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("record", ["{}", "[]", "no JSON", '{"files": {"../student.onnx": "0"}}', '{"files": 3}'])
def test_a_broken_record_removes_nothing(tmp_path: Path, record: str) -> None:
    (tmp_path / "student.onnx").write_bytes(b"another's")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / CONFIG_FILE).write_text(record)
    export(tmp_path / "out", int8=False)
    assert (tmp_path / "student.onnx").exists() and names(tmp_path / "out") == ["model.onnx", "runtime.json"]


def test_files_that_belong_together(tmp_path: Path) -> None:
    assert belonging_files(tmp_path / "nothing") == []
    export(tmp_path, int8=True)
    (tmp_path / "other.onnx").write_bytes(b"of the user")
    (tmp_path / "notes.json").write_text("{}")
    assert [path.name for path in belonging_files(tmp_path)] == ["model.onnx", "model_int8.onnx", "runtime.json"]
    (tmp_path / "model_int8.onnx").unlink()
    with pytest.raises(FileNotFoundError, match=r"model_int8\.onnx"):
        belonging_files(tmp_path)
    write_student(tmp_path / "b", threshold_inside=True)
    (tmp_path / "model_int8.onnx").write_bytes((tmp_path / "b" / "model.onnx").read_bytes())
    with pytest.raises(ValueError, match=r"model_int8\.onnx is another than runtime\.json"):
        belonging_files(tmp_path)


def test_both_records_of_a_folder_count(tmp_path: Path) -> None:
    export(tmp_path, int8=False)
    (tmp_path / "encoder.onnx").write_bytes(b"x")
    (tmp_path / "teacher.json").write_text(json.dumps({"files": {"encoder.onnx": "0"}}))
    with pytest.raises(ValueError, match=r"encoder\.onnx is another than teacher\.json"):
        belonging_files(tmp_path)
    write_config(tmp_path, files={"model.onnx": 3})
    with pytest.raises(ValueError, match=r"runtime\.json: `files`"):
        belonging_files(tmp_path)


@pytest.mark.parametrize("make", [segformer, yolos, d_fine], ids=lambda make: make.__name__)
def test_weights_are_hashed_alike_in_memory_and_in_files(make: Callable[..., PreTrainedConfig], tmp_path: Path) -> None:
    auto = AutoModelForSemanticSegmentation if make is segformer else AutoModelForObjectDetection
    model = auto.from_config(make())
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len([*(tmp_path / "shards").glob("*.safetensors")]) > 1
    for folder in (tmp_path / "one", tmp_path / "shards"):
        record = folder / "onnx" / CONFIG_FILE
        check_weights(record, hash_state(model.state_dict()))
        with torch.no_grad():
            other = copy.deepcopy(model)
            next(other.parameters()).view(-1)[0] += 1
        with pytest.raises(ValueError, match=r"exported from other weights than those in .*export the model again"):
            check_weights(record, hash_state(other.state_dict()))


def test_an_export_beside_a_student_trained_again_says_so(tmp_path: Path) -> None:
    small_student().save_pretrained(tmp_path)
    export_student(small_student(), tmp_path / "onnx")
    assert load_exported(tmp_path).config.weights and belonging_files(tmp_path / "onnx")
    again = small_student()
    with torch.no_grad():
        next(again.model.parameters()).mul_(1.01)
    again.save_pretrained(tmp_path)
    for use in (load_exported, lambda folder: belonging_files(folder / "onnx")):
        with pytest.raises(ValueError, match=r"runtime\.json was exported from other weights than those in"):
            use(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"none")
    with pytest.raises(ValueError, match=r"model\.safetensors can't be read"):
        belonging_files(tmp_path / "onnx")
    for place, pipe in ((tmp_path / "onnx", "model.onnx"), (tmp_path, "model.safetensors")):
        (place / pipe).unlink()
        os.mkfifo(place / pipe)
        with pytest.raises(ValueError, match=rf"{pipe} .*is a pipe or device"):
            check_weights(tmp_path / "onnx" / CONFIG_FILE, "0") if place == tmp_path else belonging_files(place)
    export_student(again, tmp_path / "elsewhere")
    assert belonging_files(tmp_path / "elsewhere")
