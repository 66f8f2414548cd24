import json
from importlib import import_module
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

pytest.importorskip("onnxscript")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts" / "benchmarks"))  # where a script finds its neighbours
        return import_module("benchmark_students")


@pytest.mark.slow
def test_one_table_for_all_models_and_backends(benchmark: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "benchmark.md"
    options = ["--models", "nano", "unet", "--backends", "eager", "ONNX", "INT8", "--sizes", "64x48", "--threads", "1"]
    benchmark.main([*options, "--repeats", "3", "--out", str(out)])
    text = out.read_text()
    assert "--models nano unet --backends eager ONNX INT8" in text and str(ROOT) not in text
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert rows[0] == ["model", "parameters, M", "GFLOP at 256²", "backend", "memory, MiB", "64 × 48, 1 thread"]
    assert [row[0] for row in rows[2:]] == ["nano", "", "", "unet", "", ""]
    assert [row[3] for row in rows[2:]] == ["eager", "ONNX", "INT8"] * 2
    assert float(rows[5][1]) == pytest.approx(0.40, abs=0.005)  # ACM's 0.398 million
    for row in rows[2:]:
        assert 0 < float(row[4]) < 2000
        median, rest = row[5].split(" (")
        spread, least = rest.split("), ")
        low, high = spread.split("–")
        assert 0 <= float(least) <= float(low) <= float(median) <= float(high)


def test_flops_are_two_for_each_multiplication(benchmark: ModuleType) -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 4, 1, stride=2))
    assert benchmark.flops(model, side=32) == 2 * (32 * 32 * 8 * 9 + 16 * 16 * 4 * 8)


@pytest.mark.parametrize("name", ["nano", "unet", "segformer-b0"])
def test_every_model_takes_frames_and_gives_logits_of_their_size(benchmark: ModuleType, name: str) -> None:
    with torch.no_grad():
        assert benchmark.build(name)(torch.randn(1, 1, 64, 96)).shape == (1, 1, 64, 96)


def test_models_take_turns_and_the_warm_up_does_not_count(benchmark: ModuleType, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    clock, calls = [0.0], []

    def run(name: str, seconds: float) -> None:
        calls.append(name)
        clock[0] += seconds * (100 if len(calls) <= 2 * benchmark.WARM_UP else 1)

    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: clock[0])
    runs = {"a": lambda: run("a", 0.001), "b": lambda: run("b", 0.004)}
    times = benchmark.milliseconds(runs, threads=2, repeats=5)
    assert times == {"a": [pytest.approx(1.0)] * 5, "b": [pytest.approx(4.0)] * 5}
    assert benchmark.cell([1.0, 2.0, 3.0, 4.0, 5.0]) == "3.0 (1.4–4.6), 1.0"
    assert calls == ["a", "b"] * (benchmark.WARM_UP + 5)


def test_the_picture_has_the_models_whose_figures_exist(benchmark: ModuleType, tmp_path: Path) -> None:
    models = [("small", 74.1, 85, None), ("other", 81.0, 85, 198), ("seen", 69.5, 41, 12.4), ("base", 80.0, 85, None)]
    for name, iou, frames, ms in models:
        record = {"model": name, "iou": iou, "frames": frames} | ({"ms": ms} if ms else {})
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    svg = ElementTree.fromstring(benchmark.draw(tmp_path, {"small": 10.0, "nano": 4.0}))
    labels = [text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {"small", "other", "seen, 41 of 85 frames"} <= set(labels) and not {"base", "nano"} & set(labels)
    circles = [*svg.iter("{http://www.w3.org/2000/svg}circle")]
    assert [circle.get("fill") for circle in circles] == ["white", "white", "#1f77b4"]  # other, seen, small
    other, seen, small = ((float(circle.get("cx", 0)), float(circle.get("cy", 0))) for circle in circles)
    assert small[0] < seen[0] < other[0] and other[1] < small[1] < seen[1]
    with pytest.raises(ValueError, match="nothing to draw"):
        benchmark.draw(tmp_path / "none", {"small": 10.0})


def test_the_picture_has_the_mean_of_a_models_seeds(benchmark: ModuleType, tmp_path: Path) -> None:
    for folder in ("frontier", "sizes"):
        (tmp_path / folder).mkdir()
    (tmp_path / "frontier" / "nano.json").write_text(json.dumps({"model": "nano", "seeds": "sizes/nano"}))
    with pytest.raises(ValueError, match=r"nano: no file .*nano-"):
        benchmark.draw(tmp_path / "frontier", {"nano": 4.0})
    for seed, iou in enumerate((0.7, 0.8)):
        record = {"metrics": {"iou": iou, "n_images": 85}}
        (tmp_path / "sizes" / f"nano-{seed}.json").write_text(json.dumps(record))
    (tmp_path / "frontier" / "other.json").write_text(json.dumps({"model": "other", "iou": 75, "frames": 85, "ms": 40}))
    svg = ElementTree.fromstring(benchmark.draw(tmp_path / "frontier", {"nano": 4.0}))
    nano, other = (circle.get("cy") for circle in svg.iter("{http://www.w3.org/2000/svg}circle"))
    assert nano == other
