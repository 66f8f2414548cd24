import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi

from scalpel_hf import (
    InfraredImageProcessor,
    ScalpelStudentConfig,
    ScalpelStudentForSemanticSegmentation,
    SegmentationStudent,
)
from scalpel_hf.hub.upload import push_run
from scalpel_hf.training.recipe_arguments import DistillArguments, LoopArguments
from scalpel_hf.training.run_record import closing, without_local_paths, write_metrics
from tests.hub.server import HubServer


@dataclass
class Arguments(LoopArguments):
    dataset: str = ""


def record_of(folder: Path, **arguments: str) -> dict:
    args = Arguments(output_dir=str(folder), **arguments)
    outcome = {"steps": 7, "samples": 28, "seconds": 3.0, "last": {"loss": 0.5}, "best": None}
    return json.loads(write_metrics(args, outcome, {}).read_text())


def test_what_is_written_repeats_the_run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["recipes/transfer.py", "--dataset", str(tmp_path / "two words"), "--seed", "3"]
    monkeypatch.setattr(sys, "argv", argv)
    record = record_of(tmp_path, dataset=str(tmp_path / "two words"))
    assert shlex.split(record["command"]) == argv
    assert record["arguments"]["dataset"] == str(tmp_path / "two words")


def test_others_see_no_path_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "two words"
    argv = [str(tmp_path / "transfer.py"), "--dataset", str(data), f"--output_dir={tmp_path}/run", "--seed", "3"]
    monkeypatch.setattr(sys, "argv", argv)
    record = record_of(tmp_path, dataset=str(data))
    shown = without_local_paths(record)
    assert shlex.split(shown["command"]) == ["transfer.py", "--dataset", "two words", "--output_dir=run", "--seed", "3"]
    assert str(tmp_path) not in json.dumps(shown)
    assert shown["arguments"]["dataset"] == "two words"
    unchanged = [key for key in record if key not in ("command", "arguments")]
    assert all(shown[key] == record[key] for key in unchanged) and list(shown) == list(record)


def test_names_that_are_no_paths_of_this_machine_stay() -> None:
    arguments = {"dataset": "org/name", "base_model": "models/mobile-sam", "levels": ["pixel", "mask"], "seed": 0}
    record = {"arguments": arguments, "command": "recipes/distill.py --config recipes/a.yaml --levels pixel mask"}
    assert without_local_paths(record) == record


@pytest.mark.parametrize("outside", ["../../of_someone/data", "~/data", "/someone/data", "a/../../data"])
def test_paths_outside_the_working_directory_are_not_shown(outside: str) -> None:
    record = {
        "arguments": {"dataset": outside, "operators": [outside], "inner": {"base_model": outside}},
        "command": f"recipes/distill.py --dataset {outside} --cache_dir={outside}",
    }
    shown = without_local_paths(record)
    assert shown["arguments"] == {"dataset": "data", "operators": ["data"], "inner": {"base_model": "data"}}
    assert shown["command"] == "recipes/distill.py --dataset data --cache_dir=data"


def test_neither_the_pushed_record_nor_the_card_has_local_paths(
    tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = HfApi(endpoint=hub.endpoint, token=hub.token)
    monkeypatch.setattr("scalpel_hf.hub.upload.HfApi", lambda: client)
    monkeypatch.setattr(sys, "argv", ["recipes/transfer.py", "--dataset", str(tmp_path / "data")])
    torch.manual_seed(0)
    model = ScalpelStudentForSemanticSegmentation(ScalpelStudentConfig.from_size("nano"))
    SegmentationStudent(model, InfraredImageProcessor()).save_pretrained(tmp_path / "run")
    before = record_of(tmp_path / "run", dataset=str(tmp_path / "data"))
    push_run(tmp_path / "run", "org/student")
    for name in client.list_repo_files("org/student"):
        content = Path(client.hf_hub_download("org/student", name, cache_dir=tmp_path / "hub")).read_bytes()
        assert str(tmp_path).encode() not in content, name
        if name == "metrics.json":
            assert json.loads(content) == without_local_paths(before)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == before


def test_what_a_training_ends_with() -> None:
    segments = {"iou": 0.5, "niou": 0.25, "fa": 12.34, "n_images": 3, "n_targets": 10, "n_detected": 8}
    boxes = {"ap50": 0.7, "ap50_95": None, "precision": 1.0, "n_images": 2, "n_targets": 4, "n_matched": 4}
    empty = {"iou": 0.0, "niou": 0.0, "fa": 0.0, "n_images": 1, "n_targets": 0, "n_detected": 0}
    drawn = {"false_alarms_per_frame": 0.256, "pd": 0.5, "n_images": 4, "n_targets": 8, "n_detected": 4}
    metrics = {"test": segments, "clips": boxes, "sky": empty, "drawn": drawn}
    lines = closing("runs/x", metrics, "scalpel-hf label").splitlines()
    assert lines == [
        "test: 3 frames, IoU 50.0 %, nIoU 25.0 %, 8 of 10 targets found (49 to 94 %, 95 % interval), Fa 12.3 in 1e-6",
        "clips: 2 frames, AP50 70.0 %, precision 100.0 %, 4 of 4 targets found (51 to 100 %, 95 % interval)",
        "sky: 1 frames, IoU 0.0 %, nIoU 0.0 %, Fa 0.0 in 1e-6",
        "drawn: 4 frames, 4 of 8 targets found (22 to 78 %, 95 % interval), 0.26 false alarms a frame",
        "written to runs/x",
        "next: scalpel-hf label",
    ]


def test_what_was_measured_of_a_single_teacher_is_not_kept_for_a_committee(tmp_path: Path) -> None:
    outcome = {"steps": 7, "samples": 28, "seconds": 3.0, "last": {"loss": 0.5}, "best": None}

    def written(committee: int, split: str, **guard: Any) -> dict:
        args = DistillArguments(output_dir=str(tmp_path), committee=committee)
        return json.loads(write_metrics(args, outcome, {split: {"iou": 0.5}}, **guard).read_text())

    written(1, "test", guard={"lead": {}})
    assert set(written(1, "validation")["metrics"]) == {"test", "validation"}
    two = written(2, "validation")
    assert set(two["metrics"]) == {"validation"} and "guard" not in two
