"""The gate that labelled targets set for what the operators must see, and what it does to real frames."""

import json
from dataclasses import asdict
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from peft import get_peft_model
from scipy import ndimage

from scalpel_hf import InfraredImageProcessor, ScalpelMoeConfig, SyntheticInfrared, Teacher, apply_label_budget
from scalpel_hf.data import human_labelled, load_irst_dataset
from scalpel_hf.data.transforms import Sample
from scalpel_hf.modeling.consensus_gate import ConsensusGate
from scalpel_hf.predictors.committee import Committee
from scalpel_hf.training.frames import labelled_sample
from scalpel_hf.training.gate_fitting import fit_consensus_gate
from scripts.experiments import fit_consensus_gate as program
from tests.small_models import SIZE, perturb, small_mobile_sam


def small_teacher(**kwargs: object) -> Teacher:
    model = get_peft_model(small_mobile_sam(), ScalpelMoeConfig(channels=8, **{"levels": ["pixel", "mask"], **kwargs}))
    return Teacher(model.eval(), InfraredImageProcessor(normalization="range", sam_size=SIZE))


def penalty(teacher: Teacher, frame: np.ndarray) -> np.ndarray:
    """Logits `(H, W)` that a frame's places lose by the teacher's gate."""
    level = teacher.model.get_base_model().mask_decoder.active
    fitted = level.gate

    def logits(gate: ConsensusGate) -> np.ndarray:
        level.set_gate(gate)
        probability = teacher.probabilities(frame).astype(np.float64)
        return np.log(probability / (1 - probability))

    return logits(ConsensusGate(noise_floor=fitted.noise_floor)) - logits(fitted)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    camera = SyntheticInfrared(size=(48, 56), n_targets=(1, 2), extent=(2, 4), snr=(15, 30), seed=2)
    return [labelled_sample(row | {"label_source": "human"}) for row in camera.to_dataset(6)]


def test_a_labelled_targets_peak_loses_nothing_and_the_faintest_is_at_twice_the_threshold(
    samples: list[Sample],
) -> None:
    teacher = small_teacher()
    gate = fit_consensus_gate(teacher, samples)
    assert gate.threshold > 1 and teacher.model.peft_config["default"].consensus_gate == asdict(gate)
    level, peaks, shares = teacher.model.get_base_model().mask_decoder.active, [], []
    for sample in samples:
        frame = torch.from_numpy(8 * (sample.frame - sample.frame.mean()) / np.ptp(sample.frame))[None, None]
        maps = [expert.amax(1) for expert in level.pyramid(frame)[0]]
        agreed = torch.stack(maps).mean(0)[0].numpy(force=True)
        targets, n = ndimage.label(sample.target > 0.5, np.ones((3, 3)))
        peaks += list(ndimage.maximum(agreed, targets, range(1, n + 1)))
        shares += [np.expm1(peak) / np.expm1(agreed.max()) for peak in peaks[-n:]]
        lost = penalty(teacher, sample.frame)
        assert lost.max() > 2 and abs(lost[sample.target > 0.5]).max() < 1e-2
    assert np.expm1(gate.threshold) == pytest.approx(np.expm1(min(peaks)) / 2, rel=1e-3)
    assert level.gate == gate and gate.share == pytest.approx(min(shares) / 2, rel=1e-3) and min(shares) < 0.99


def test_the_learned_operators_count(samples: list[Sample]) -> None:
    teacher = small_teacher()
    before = fit_consensus_gate(teacher, samples).threshold
    perturb(teacher.model.get_base_model().mask_decoder.active.pyramid)
    assert fit_consensus_gate(teacher, samples).threshold != pytest.approx(before, rel=1e-3)


def test_a_higher_noise_floor_is_kept_and_lowers_the_threshold(samples: list[Sample], tmp_path: Path) -> None:
    teacher = small_teacher()
    before = fit_consensus_gate(teacher, samples)
    after = fit_consensus_gate(teacher, samples, noise_floor=1 / 16)
    assert after.threshold < before.threshold - 0.1
    assert teacher.model.get_base_model().mask_decoder.active.pyramid.noise_floor == 1 / 16
    teacher.save_pretrained(tmp_path / "teacher")
    config = ScalpelMoeConfig.from_pretrained(str(tmp_path / "teacher"))
    assert config.consensus_gate == asdict(after) and after.noise_floor == 1 / 16
    assert fit_consensus_gate(teacher, samples) == after  # a floor that was set stays


@pytest.mark.parametrize("kwargs", [{"levels": ["mask"]}, {"levels": ["token"]}], ids=str)
def test_without_the_operators_on_the_frame_the_gate_asks_for_nothing(samples: list[Sample], kwargs: dict) -> None:
    teacher = small_teacher(**kwargs)
    assert fit_consensus_gate(teacher, samples) == ConsensusGate()
    assert teacher.model.peft_config["default"].consensus_gate == asdict(ConsensusGate())


def test_targets_that_no_operator_sees_open_the_gate() -> None:
    constant = Sample(np.full((40, 40), 9.0, np.float32), np.eye(40, dtype=np.float32), np.ones((40, 40), np.float32))
    assert not fit_consensus_gate(teacher := small_teacher(consensus_gate={"threshold": 2.0}), [constant]).is_active
    assert teacher.model.peft_config["default"].consensus_gate == asdict(ConsensusGate())


def test_on_real_frames(shared_dir: Path) -> None:
    """NUAA-SIRST, gate from a tenth of the labels: few targets of the others lose logits, most of the rest does."""
    full = load_irst_dataset("nuaa-sirst", shared_dir / "data" / "NUAA-SIRST", split="train")
    tenth = apply_label_budget(full, 0.1, seed=0)
    teacher = small_teacher(sam_features=False)
    teacher.tile_size = 512  # a frame is one tile
    fit_consensus_gate(teacher, [labelled_sample(row) for row in human_labelled(tenth, "NUAA-SIRST")])
    hidden = [index for index, source in enumerate(tenth["label_source"]) if source == "none"]
    lost, background = [], []
    for row in full.select(hidden[:40]):
        sample = labelled_sample(row | {"label_source": "human"})
        one = penalty(teacher, sample.frame)
        targets, n = ndimage.label(sample.target > 0.5, np.ones((3, 3)))
        lost += list(ndimage.minimum(one, targets, range(1, n + 1)))
        background.append((one[sample.target < 0.5] > 0.5).mean())
    assert len(lost) > 40 and np.mean(np.array(lost) > 0.1) <= 0.03
    assert np.mean(background) > 0.9


def test_the_program_fits_a_saved_teacher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    camera = SyntheticInfrared(size=(48, 56), n_targets=(1, 2), extent=(2, 4), snr=(15, 30), seed=2)
    datasets.DatasetDict({"train": apply_label_budget(camera.to_dataset(6), 0.5)}).save_to_disk(str(tmp_path / "data"))
    small_mobile_sam().save_pretrained(str(tmp_path / "base"))
    for name, levels in (("teacher", ["pixel", "mask"]), ("plain", ["mask"])):
        small_teacher(levels=levels).save_pretrained(tmp_path / name)
    options = [
        "--dataset",
        str(tmp_path / "data"),
        "--base-model",
        str(tmp_path / "base"),
        "--out",
        str(tmp_path / "out"),
    ]
    program.main([*options, "--teacher", str(tmp_path / "teacher")])
    written = tmp_path / "out" / "adapter_config.json"
    gate = json.loads(written.read_text())["consensus_gate"]
    threshold = gate["threshold"]
    assert threshold > 1 and f"consensus gate at {threshold:.2f} from 3 labelled frames" in capsys.readouterr().out
    teachers_own = json.loads((tmp_path / "teacher" / "adapter_config.json").read_text())
    assert teachers_own["consensus_gate"] == asdict(ConsensusGate())
    program.main([*options, "--teacher", str(tmp_path / "teacher"), "--noise-floor", "0.0625"])
    deafer = json.loads(written.read_text())["consensus_gate"]
    assert deafer["noise_floor"] == 0.0625 and deafer["threshold"] < threshold and 0 < deafer["share"] <= 0.5
    with pytest.raises(SystemExit):
        program.main([*options, "--teacher", str(tmp_path / "teacher"), "--noise-floor", "16"])
    assert "argument --noise-floor: must be a number from 0 to 1" in capsys.readouterr().err
    with pytest.raises(ValueError, match="has no pixel level, or its operators see none of the targets"):
        program.main([*options, "--teacher", str(tmp_path / "plain")])
    Committee([small_teacher(), small_teacher(levels=["mask"]), small_teacher()]).save_pretrained(tmp_path / "three")
    program.main([*options, "--teacher", str(tmp_path / "three")])
    assert f"consensus gate at {threshold:.2f}, {threshold:.2f} from 3" in capsys.readouterr().out
    third = json.loads((tmp_path / "out" / "committee-2" / "adapter_config.json").read_text())
    assert third["consensus_gate"] == gate == json.loads(written.read_text())["consensus_gate"]
