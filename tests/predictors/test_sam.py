"""Loading a Segment Anything model at its own and at another input size."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy import ndimage
from transformers import SamConfig, SamModel, SegformerConfig

from scalpel_hf import load_sam
from scalpel_hf.adapter.families import input_size
from scalpel_hf.cli import convert_mobile_sam
from scalpel_hf.modeling.modeling_mobile_sam import MobileSamModel
from scalpel_hf.predictors.sam import resize_sam
from tests.small_models import FAMILIES, SIZE, random_inputs, small_mobile_sam, small_sam


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    small_sam().save_pretrained(str(folder / "sam"))
    small_mobile_sam().save_pretrained(str(folder / "mobile-sam"))
    return folder


@pytest.mark.parametrize("name", ["sam", "mobile-sam"])
@pytest.mark.parametrize("size", [None, SIZE], ids=str)
def test_at_its_own_size_it_is_the_model_itself_bitwise(folder: Path, name: str, size: int | None) -> None:
    direct = (SamModel if name == "sam" else MobileSamModel).from_pretrained(str(folder / name)).eval()
    model, pixel_values = load_sam(folder / name, size), random_inputs()["pixel_values"]
    assert type(model) is type(direct) and not model.training
    assert not any(p.requires_grad for p in model.parameters())
    for (key, ours), (other, theirs) in zip(model.state_dict().items(), direct.state_dict().items(), strict=True):
        assert key == other and torch.equal(ours, theirs)
    with torch.no_grad():
        expected, actual = direct(pixel_values), model(pixel_values)
    assert expected.pred_masks.std() > 0
    assert torch.equal(actual.pred_masks, expected.pred_masks)


@pytest.mark.parametrize("size", [32, 96, 128])
@pytest.mark.parametrize("name", ["sam", "mobile-sam"])
def test_at_another_size_everything_fits(folder: Path, name: str, size: int, tmp_path: Path) -> None:
    model = load_sam(folder / name, size)
    assert model.config.vision_config.image_size == model.config.prompt_encoder_config.image_size == size
    generator = torch.Generator().manual_seed(0)
    pixel_values = torch.randn(1, 3, size, size, generator=generator)
    point = torch.tensor([[[[size / 2, size / 3]]]])
    with torch.no_grad():
        embeddings = model.get_image_embeddings(pixel_values)
        output = model(pixel_values, input_points=point)
    assert embeddings.shape[-2:] == (size // 16, size // 16)
    assert output.pred_masks.shape[-2:] == (size // 4, size // 4) and output.pred_masks.std() > 0
    with pytest.raises(ValueError, match=r"Input image size|The input is"):
        model(pixel_values[..., : size - 16])
    model.save_pretrained(str(tmp_path))  # a model of its own from here on
    with torch.no_grad():
        again = load_sam(tmp_path)(pixel_values, input_points=point)
    assert torch.equal(again.pred_masks, output.pred_masks)


@pytest.mark.parametrize("size", [32, 128])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_at_another_size(family: str, size: int, tmp_path: Path) -> None:
    FAMILIES[family]().save_pretrained(str(tmp_path))
    model = load_sam(tmp_path, size)
    assert input_size(model) == size
    with torch.no_grad():
        masks = model(torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))).pred_masks
    stride = SIZE // FAMILIES[family]()(random_inputs(1)["pixel_values"]).pred_masks.shape[-1]
    assert masks.shape[-2:] == (size // stride, size // stride) and masks.isfinite().all() and masks.std() > 0
    with pytest.raises(ValueError, match=r"`image_size` must be a positive multiple of (16|32) pixels, got 40"):
        load_sam(tmp_path, 40)


def cubic(values: np.ndarray, length: int) -> np.ndarray:
    """Keys' cubic convolution (a = -0.75) of a row, by the book, the border pixel repeated."""
    out = np.zeros(length)
    for i in range(length):
        place = (i + 0.5) * len(values) / length - 0.5
        for j in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            d = abs(place - j)
            near, far = 1.25 * d**3 - 2.25 * d**2 + 1, -0.75 * d**3 + 3.75 * d**2 - 6 * d + 3
            out[i] += (near if d <= 1 else far) * values[min(max(j, 0), len(values) - 1)]
    return out


@pytest.mark.parametrize("size", [32, 112])
def test_which_weights_change_and_how(size: int) -> None:
    """Absolute positions against a loop, relative ones against the attention's own interpolation."""
    model, side = small_sam((1,)), size // 16
    resized = resize_sam(model, size)
    before, after = model.state_dict(), resized.state_dict()
    attention = "vision_encoder.layers.1.attn"
    changed = {"vision_encoder.pos_embed", f"{attention}.rel_pos_h", f"{attention}.rel_pos_w"}
    assert all(torch.equal(after[k], before[k]) != (k in changed) for k in before if after[k].shape == before[k].shape)
    assert {k for k in before if after[k].shape != before[k].shape} == changed

    table = before["vision_encoder.pos_embed"][0, :, :, 5].double().numpy()
    expected = np.apply_along_axis(cubic, 0, np.apply_along_axis(cubic, 1, table, side), side)
    np.testing.assert_allclose(after["vision_encoder.pos_embed"][0, :, :, 5].numpy(), expected, atol=1e-6)

    old, new = model.vision_encoder.layers[1].attn, resized.vision_encoder.layers[1].attn
    for name in ("rel_pos_h", "rel_pos_w"):
        expected = old.get_rel_pos(side, side, getattr(old, name))
        torch.testing.assert_close(new.get_rel_pos(side, side, getattr(new, name)), expected)


def test_the_size_of_the_model_at_hand_is_left_alone() -> None:
    model, pixel_values = small_sam(), random_inputs()["pixel_values"]
    with torch.no_grad():
        expected = model(pixel_values).pred_masks
        resize_sam(model, 96)
        assert torch.equal(model(pixel_values).pred_masks, expected)
    assert model.config.vision_config.image_size == SIZE and resize_sam(model, SIZE) is model


def test_other_arguments_reach_from_pretrained(folder: Path) -> None:
    for size in (None, 96):
        model = load_sam(folder / "sam", size, dtype=torch.bfloat16, attn_implementation="eager")
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        assert type(model.vision_encoder.layers[0].attn).__name__ == "SamVisionAttention"


@pytest.fixture(scope="module")
def mobile_sam(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "mobile-sam"
    convert_mobile_sam.main([str(shared_dir / "weights" / "mobile_sam.pt"), str(folder)])
    return folder


def frames(shared_dir: Path, count: int) -> list[Image.Image]:
    paths = sorted((shared_dir / "data" / "NUAA-SIRST" / "images").iterdir())[:: 427 // count][:count]
    return [Image.open(path).convert("RGB") for path in paths]


def at_size(images: list[Image.Image], size: int) -> torch.Tensor:
    arrays = [np.asarray(image.resize((size, size), Image.Resampling.BOX), dtype=np.float32) for image in images]
    return (torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) - 120) / 58


def similarity(half: torch.Tensor, full: torch.Tensor) -> float:
    """Mean cosine between each place of the half-size embedding and the same place of the pooled full-size one."""
    return F.cosine_similarity(half, F.avg_pool2d(full, 2), dim=1).mean().item()


def smooth_vit() -> SamModel:
    """A ViT of SAM's shape that, like a trained one, has smooth position tables and sees means more than pixels."""
    config = SamConfig(**{k: v for k, v in small_sam().config.to_dict().items() if k.endswith("_config")})
    config.vision_config.update({"image_size": 256, "global_attn_indexes": [0, 1, 2]})
    config.prompt_encoder_config.update({"image_size": 256, "image_embedding_size": 16})
    torch.manual_seed(0)
    model = SamModel(config).eval()
    generator = np.random.default_rng(0)

    def smooth(shape: tuple[int, ...], sigma: tuple[float, ...]) -> torch.Tensor:
        noise = ndimage.gaussian_filter(generator.standard_normal(shape), sigma, mode="nearest")
        return torch.tensor(3 * noise / noise.std(), dtype=torch.float32)

    with torch.no_grad():
        encoder = model.vision_encoder
        projection = encoder.patch_embed.projection.weight
        projection.copy_(projection.mean((2, 3), keepdim=True).expand_as(projection))
        encoder.pos_embed.copy_(smooth((1, 16, 16, 32), (0, 3, 3, 0)))
        for index in config.vision_config.global_attn_indexes:
            attention = encoder.layers[index].attn
            attention.rel_pos_h.copy_(smooth((31, 16), (3, 0)))
            attention.rel_pos_w.copy_(smooth((31, 16), (3, 0)))
    return model


@torch.no_grad()
def test_a_vit_at_half_size_sees_what_it_saw(shared_dir: Path) -> None:
    model, images = smooth_vit(), frames(shared_dir, 6)
    full = model.get_image_embeddings(at_size(images, 256))
    half_size = resize_sam(model, 128)
    half = half_size.get_image_embeddings(at_size(images, 128))
    error = 1 - similarity(half, full)
    assert error < 0.5 * (1 - similarity(half, full.roll(1, 0)))  # each frame is nearest to itself
    # What happens where the table is cropped, or dropped as `ignore_mismatched_sizes=True` does.
    for table in (model.vision_encoder.pos_embed[:, :8, :8], torch.zeros(())):
        half_size.vision_encoder.pos_embed.copy_(table)
        assert error < 0.5 * (1 - similarity(half_size.get_image_embeddings(at_size(images, 128)), full))


@torch.no_grad()
def test_mobile_sam_at_half_size_sees_what_it_saw(mobile_sam: Path, shared_dir: Path) -> None:
    images = frames(shared_dir, 2)
    full = load_sam(mobile_sam).get_image_embeddings(at_size(images, 1024))
    half = load_sam(mobile_sam, 512).get_image_embeddings(at_size(images, 512))
    own, other = similarity(half, full), similarity(half, full.roll(1, 0))
    assert own > 0.8 and 1 - own < 0.5 * (1 - other)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [("sam", 72, "multiple of 16 pixels, got 72"), ("mobile-sam", 48, "multiple of 32 pixels, got 48")]
    + [(name, size, "positive multiple of") for name in ("sam", "mobile-sam") for size in (0, -64)],
)
def test_a_size_that_does_not_fit_is_a_clear_error(folder: Path, name: str, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_sam(folder / name, size)


def test_what_is_not_sam_is_a_clear_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no base model given"):
        load_sam("")
    with pytest.raises(ValueError, match="neither a folder with a model nor a model that the Hub gives"):
        load_sam(tmp_path / "absent")
    SegformerConfig().save_pretrained(str(tmp_path / "other"))
    with pytest.raises(ValueError, match="'segformer' model, not one of SamModel, MobileSamModel, SamHQModel,"):
        load_sam(tmp_path / "other")
    for model_type in ("sam3", "scalpel_sam", "sam_vision_model"):
        (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": model_type}))
        with pytest.raises(ValueError, match=f"'{model_type}' model, not one of SamModel"):
            load_sam(tmp_path / "other")
    shutil.copytree(folder / "sam", tmp_path / "lacking")
    weights = load_file(tmp_path / "lacking" / "model.safetensors")
    kept = {k: v for k, v in weights.items() if "layers.2.mlp" not in k}
    save_file(kept, tmp_path / "lacking" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"the weights of a SamModel: 4 weights \(`vision_encoder.layers.2.mlp"):
        load_sam(tmp_path / "lacking")
