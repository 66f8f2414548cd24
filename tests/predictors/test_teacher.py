"""A teacher's predictions: views, tiles, batches, and what they cost."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import get_peft_model
from transformers import SamModel

from scalpel_hf import InfraredImageProcessor, ScalpelMoeConfig, Teacher, add_pseudo_labels
from scalpel_hf.adapter.families import sam_input
from scalpel_hf.export import export_teacher
from scalpel_hf.hub.standalone import save_standalone
from scalpel_hf.predictors.committee import Committee
from scalpel_hf.predictors.sam import load_sam
from scalpel_hf.predictors.tiling import blend_tiles, tile_starts
from tests.pseudo_labels.helpers import frames_dataset
from tests.small_models import FAMILIES, SIZE, perturb, small_mobile_sam

RNG = np.random.default_rng(0)
FRAME = RNG.integers(0, 4000, (40, 56)).astype(np.uint16)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    model = get_peft_model(small_mobile_sam(), ScalpelMoeConfig(blocks=1, channels=8))
    perturb(model)
    return model


def make(model: torch.nn.Module, **kwargs: object) -> Teacher:
    return Teacher(model, InfraredImageProcessor(sam_size=SIZE), **kwargs)


def encoder_calls(teacher: Teacher) -> list[int]:
    """Grows by the number of frames at each pass through the encoder."""
    calls: list[int] = []
    teacher.frozen.encoder.patch_embed.register_forward_hook(lambda m, args, out: calls.append(len(args[0])))
    return calls


@pytest.mark.parametrize("family", FAMILIES)
def test_loaded_in_half_precision_it_answers_alike(family: str, tmp_path: Path) -> None:
    FAMILIES[family]().save_pretrained(str(tmp_path / "base"))
    base = load_sam(tmp_path / "base")
    model = get_peft_model(base, ScalpelMoeConfig(levels=["pixel", "mask"], channels=8, sam_features=True))
    perturb(model)
    Teacher(model, InfraredImageProcessor(**sam_input(base))).save_pretrained(tmp_path / "teacher")
    whole = Teacher.from_pretrained(tmp_path / "teacher", local_files_only=True)
    half = Teacher.from_pretrained(tmp_path / "teacher", dtype=torch.bfloat16, device_map="auto")
    dtypes = {name: p.dtype for name, p in half.model.named_parameters()}
    assert {dtype for name, dtype in dtypes.items() if "scalpel" in name} == {torch.float32}
    assert torch.bfloat16 in dtypes.values()
    assert np.abs(half(FRAME) - whole(FRAME)).mean() < 0.02 and np.ptp(whole(FRAME)) > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_teacher_of_every_family(family: str, tmp_path: Path) -> None:
    FAMILIES[family]().save_pretrained(str(tmp_path / "base"))
    base = load_sam(tmp_path / "base")
    model = get_peft_model(base, ScalpelMoeConfig(levels=["pixel", "mask"], channels=8))
    perturb(model)
    if family == "sam3":
        with pytest.raises(ValueError, match=r"channel means are \(123.*Sam3TrackerModel takes \(127.5"):
            make(model)
    teacher = Teacher(model, InfraredImageProcessor(**sam_input(base)), feature_cache_dir=tmp_path / "cache")
    inputs = teacher.processor(FRAME, return_tensors="pt")
    inputs = {key: inputs[key] for key in ("pixel_values", "frames", "frame_boxes")}
    with torch.no_grad():
        expected = model(**inputs, multimask_output=False).pred_masks[0, 0, 0].sigmoid().numpy()
    (prediction,) = teacher.predict([FRAME])
    np.testing.assert_allclose(prediction.probability, expected, atol=2e-3)  # the cache is in half precision
    teacher.save_pretrained(tmp_path / "teacher")
    again = Teacher.from_pretrained(tmp_path / "teacher", feature_cache_dir=tmp_path / "cache")
    np.testing.assert_allclose(again.probabilities(FRAME), prediction.probability, atol=1e-5)  # channels last
    if not isinstance(base, SamModel):
        with pytest.raises(ValueError, match="SamModel or MobileSamModel, not on"):
            save_standalone(tmp_path / "teacher", tmp_path / "alone")
        with pytest.raises(ValueError, match="exported as ONNX on SamModel and MobileSamModel"):
            export_teacher(again, tmp_path / "onnx")


def test_one_view_has_no_spread(model: torch.nn.Module) -> None:
    (prediction,) = make(model).predict([FRAME])
    assert prediction.spread is None and prediction.probability.shape == FRAME.shape
    assert prediction.probability.dtype == np.float32 and prediction.probability.std() > 1e-3


def test_flips_and_scales_are_the_mean_and_spread_of_their_views(model: torch.nn.Module) -> None:
    def view(frame: np.ndarray, scale: float) -> np.ndarray:
        inputs = InfraredImageProcessor(sam_size=SIZE)(frame, return_tensors="pt")
        size = [round(side * scale) for side in frame.shape]
        frames = F.interpolate(inputs["frames"], size, mode="bilinear", antialias=True)
        with torch.no_grad():
            logits = model(
                pixel_values=inputs["pixel_values"],
                frames=frames,
                frame_boxes=inputs["frame_boxes"],
                multimask_output=False,
            ).pred_masks
        return F.interpolate(logits.sigmoid()[:, 0], frame.shape, mode="bilinear", antialias=True)[0, 0].numpy()

    views = []
    for scale in (1.0, 1.5):
        views.append(view(FRAME, scale))
        views.append(view(FRAME[::-1].copy(), scale)[::-1])
        views.append(view(FRAME[:, ::-1].copy(), scale)[:, ::-1])
        views.append(view(FRAME[::-1, ::-1].copy(), scale)[::-1, ::-1])
    (prediction,) = make(model, flips=True, scales=(1, 1.5)).predict([FRAME])
    np.testing.assert_allclose(prediction.probability, np.mean(views, 0), atol=1e-5)
    np.testing.assert_allclose(prediction.spread, np.std(views, 0), atol=2e-3)  # a difference of near squares
    assert np.std(views, 0).max() > 0.05


@pytest.mark.parametrize(("at_a_time", "passes"), [(1, [1, 1]), (8, [2])])
def test_one_pass_of_the_encoder_a_frame_and_mirror_image(
    model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, at_a_time: int, passes: list[int]
) -> None:
    monkeypatch.setattr(Teacher, "at_a_time", at_a_time)
    teacher = make(model, scales=(0.75, 1, 1.5))
    calls = encoder_calls(teacher)
    teacher.predict([FRAME, FRAME // 2])
    assert calls == passes
    make(model, flips=True).predict([FRAME])
    assert sum(calls) == 2 + 4


@pytest.mark.parametrize("at_a_time", [1, 2, 8])
def test_a_frame_gets_the_same_answer_in_any_company(
    model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, at_a_time: int
) -> None:
    monkeypatch.setattr(Teacher, "at_a_time", at_a_time)
    others = [RNG.normal(100, 9, shape) for shape in ((40, 56), (33, 41), (40, 56), (100, 90))]
    frames = [others[0], others[1], FRAME, others[2], others[3]]
    teacher = make(model, flips=True)
    together = teacher.predict(frames)
    for frame, prediction in zip(frames, together, strict=True):
        np.testing.assert_allclose(prediction.probability, teacher.probabilities(frame), atol=1e-5)
        assert prediction.probability.shape == frame.shape


def test_a_large_frame_is_its_tiles(model: torch.nn.Module) -> None:
    frame = RNG.normal(1000, 30, (150, 70)).astype(np.float32)
    whole = make(model)
    (tiled,) = whole.predict([frame])
    by_hand = blend_tiles(lambda tile: whole.probabilities(tile)[None], frame, SIZE, SIZE // 8)[0]
    np.testing.assert_allclose(tiled.probability, by_hand, atol=1e-5)
    assert tiled.spread is None
    assert np.abs(make(model, tile_size=150).probabilities(frame) - tiled.probability).max() > 1e-3

    (spread,) = (a.spread for a in make(model, flips=True).predict([frame]))
    assert spread is not None and spread.shape == frame.shape and 0 < spread.max() <= 0.5


def test_a_cache_that_may_not_grow_is_read(model: torch.nn.Module, tmp_path: Path) -> None:
    filled = make(model, feature_cache_dir=tmp_path)
    filled.probabilities(FRAME)
    entries = sorted(tmp_path.iterdir())
    reader = make(model, feature_cache_dir=tmp_path, feature_cache_bytes=0)
    calls = encoder_calls(reader)
    np.testing.assert_array_equal(reader.probabilities(FRAME), filled.probabilities(FRAME))
    assert calls == []
    reader.probabilities(FRAME // 3)
    assert calls == [1] and sorted(tmp_path.iterdir()) == entries
    np.testing.assert_array_equal(reader.probabilities(FRAME // 3), filled.probabilities(FRAME // 3))


def test_every_target_on_a_seam_is_labelled_once_and_whole(
    model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher's own tiles, with a detector in them that, as networks do, is blind at the edge of what it sees."""

    def detector(teacher: Teacher, frames: list[np.ndarray]) -> torch.Tensor:
        seen = np.zeros(frames[0].shape, np.float32)
        seen[2:-2, 2:-2] = (frames[0] > 100)[2:-2, 2:-2] * 0.95
        return torch.from_numpy(np.stack([seen, seen**2]))[:, None]

    monkeypatch.setattr(Teacher, "_encode", lambda self, frames: ())
    monkeypatch.setattr(Teacher, "_moments", detector)
    tile, overlap = SIZE, SIZE // 8
    sides = (3 * tile + 5, 2 * tile + 30)
    seams = [sorted({e for s in tile_starts(side, tile, overlap) for e in (s, s + tile)} - {0, side}) for side in sides]
    for shift in range(-overlap, overlap + 1):  # targets of 3 x 3 pixels before, on and behind the tiles' edges
        frame = np.zeros(sides, np.uint8)
        boxes = []
        for y in seams[0][::2]:
            for x in seams[1][::2]:
                y0, x0 = y + shift - 1, x + shift - 1
                frame[y0 : y0 + 3, x0 : x0 + 3] = 200
                boxes.append([x0, y0, 3, 3])
        found = add_pseudo_labels(frames_dataset([frame]), make(model), keep_in_memory=True)[0]
        assert sorted(found["pseudo_objects"]["bbox"]) == sorted(boxes) and len(boxes) >= 6
        np.testing.assert_array_equal(np.asarray(found["pseudo_mask"]) > 0, frame > 0)


def test_the_fingerprint_is_that_of_weights_and_processor(model: torch.nn.Module) -> None:
    before = make(model).fingerprint()
    stretched = InfraredImageProcessor(sam_size=SIZE, normalization="percentile")
    assert Teacher(model, stretched).fingerprint() != before
    for parameter in (next(model.parameters()), [p for p in model.parameters() if p.requires_grad][-1]):
        with torch.no_grad():
            value = parameter.flatten()[0].item()
            parameter.view(-1)[0] += 0.5
            assert make(model).fingerprint() != before  # of the base, and of the adapter
            parameter.view(-1)[0] = value
    assert make(model).fingerprint() == before


def test_the_fingerprint_knows_which_adapter_is_active() -> None:
    model = get_peft_model(small_mobile_sam(), ScalpelMoeConfig(blocks=1, channels=8))
    model.add_adapter("other", ScalpelMoeConfig(blocks=1, channels=8))
    first = make(model).fingerprint()
    with model.disable_adapter():
        without = make(model).fingerprint()
    model.set_adapter("other")
    other = make(model).fingerprint()
    model.set_adapter("default")
    assert len({first, without, other}) == 3 and make(model).fingerprint() == first


def pickled_and_back(teacher: Teacher) -> Teacher:
    file = io.BytesIO()
    torch.save(teacher, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def test_a_teacher_can_be_pickled(tmp_path: Path) -> None:
    adapted = get_peft_model(small_mobile_sam(), ScalpelMoeConfig(blocks=1, channels=8))
    perturb(adapted)
    teacher = make(adapted, feature_cache_dir=tmp_path / "cache")
    again = pickled_and_back(teacher)
    assert again.fingerprint() == teacher.fingerprint() and again.cache.folder == tmp_path / "cache"
    np.testing.assert_array_equal(again.probabilities(FRAME), teacher.probabilities(FRAME))
    members = pickled_and_back(Committee([teacher, teacher])).members
    np.testing.assert_array_equal(members[1].probabilities(FRAME), teacher.probabilities(FRAME))


def test_the_fingerprint_knows_the_views(model: torch.nn.Module) -> None:
    settings: list[dict] = [{}, {"flips": True}, {"scales": (1, 1.5)}, {"tile_size": 128}]
    assert len({make(model, **s).fingerprint() for s in settings}) == 4
    assert make(model, tile_size=SIZE).fingerprint() == make(model).fingerprint()
    for scales in ((), (0,), (1, -1)):
        with pytest.raises(ValueError, match="`scales` must be positive"):
            make(model, scales=scales)
