"""The published weights in `MobileSamModel`: the right numbers, and masks that fit."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from torch import Tensor
from transformers import SamProcessor

from scalpel_hf.cli import convert_mobile_sam
from scalpel_hf.modeling.modeling_mobile_sam import MobileSamModel


@pytest.fixture(scope="session")
def folder(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "mobile-sam"
    convert_mobile_sam.main([str(shared_dir / "weights" / "mobile_sam.pt"), str(folder)])
    return folder


def load(folder: Path, size: int) -> tuple[MobileSamModel, SamProcessor]:
    pad_size = {"height": size, "width": size}
    processor = SamProcessor.from_pretrained(folder, size={"longest_edge": size}, pad_size=pad_size)
    return MobileSamModel.from_pretrained(folder, image_size=size).eval(), processor


@pytest.fixture(scope="session")
def at_512(folder: Path) -> tuple[MobileSamModel, SamProcessor]:
    return load(folder, 512)


@pytest.fixture(scope="session")
def at_1024(folder: Path) -> tuple[MobileSamModel, SamProcessor]:
    return load(folder, 1024)


# --- the encoder, by the book ----------------------------------------------------------------------------------------


class Reference:
    """TinyViT with SAM's neck from the published tensors under their own names, window by window."""

    heads = (2, 4, 5, 10)  # the first stage is convolutional
    windows = (7, 7, 14, 7)

    def __init__(self, tensors: dict[str, Tensor]):
        self.t = {k.removeprefix("image_encoder."): v.double() for k, v in tensors.items() if "image_encoder." in k}

    def conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = self.t[f"{name}.c.weight"]
        groups = x.shape[1] // weight.shape[1]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
        mean, var, gamma, beta = (self.t[f"{name}.bn.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        scale = gamma / (var + 1e-5).sqrt()
        return x * scale[:, None, None] + (beta - mean * scale)[:, None, None]

    def norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.t[f"{name}.weight"], self.t[f"{name}.bias"], 1e-5)

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.t[f"{name}.weight"].T + self.t[f"{name}.bias"]

    def norm2d(self, x: Tensor, name: str) -> Tensor:
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-6).sqrt()
        return x * self.t[f"{name}.weight"][:, None, None] + self.t[f"{name}.bias"][:, None, None]

    def attend(self, window: Tensor, name: str, heads: int, size: int) -> Tensor:
        """(B, size, size, C) -> the same, all pairs of one window."""
        batch, dim = window.shape[0], window.shape[-1]
        tokens = self.norm(window.reshape(batch, -1, dim), f"{name}.norm")
        qkv = self.linear(tokens, f"{name}.qkv").reshape(batch, size**2, heads, 3, dim // heads)
        query, key, value = qkv.unbind(3)
        places = [divmod(i, size) for i in range(size**2)]
        number: dict[tuple[int, int], int] = {}  # offsets numbered as they first occur
        index = [[number.setdefault((abs(y - v), abs(x - u)), len(number)) for v, u in places] for y, x in places]
        bias = self.t[f"{name}.attention_biases"][:, torch.tensor(index)]
        scores = torch.einsum("bnhd,bmhd->bhnm", query, key) / (dim // heads) ** 0.5 + bias
        out = torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), value).reshape(batch, -1, dim)
        return self.linear(out, f"{name}.proj").reshape(window.shape)

    def block(self, x: Tensor, name: str, heads: int, size: int) -> Tensor:
        height, width = x.shape[2:]
        x = x.permute(0, 2, 3, 1)
        attended = torch.zeros_like(x)
        for top in range(0, height, size):
            for left in range(0, width, size):
                window = x[:, top : top + size, left : left + size]
                h, w = window.shape[1:3]
                full = F.pad(window, (0, 0, 0, size - w, 0, size - h))
                attended[:, top : top + h, left : left + w] = self.attend(full, f"{name}.attn", heads, size)[:, :h, :w]
        x = self.conv((x + attended).permute(0, 3, 1, 2), f"{name}.local_conv").permute(0, 2, 3, 1)
        hidden = F.gelu(self.linear(self.norm(x, f"{name}.mlp.norm"), f"{name}.mlp.fc1"))
        return (x + self.linear(hidden, f"{name}.mlp.fc2")).permute(0, 3, 1, 2)

    def __call__(self, pixels: Tensor) -> Tensor:
        x = F.gelu(self.conv(pixels, "patch_embed.seq.0", stride=2))
        x = self.conv(x, "patch_embed.seq.2", stride=2)
        for stage, depth in enumerate((2, 2, 6, 2)):
            for block in range(depth):
                name = f"layers.{stage}.blocks.{block}"
                if stage == 0:
                    hidden = F.gelu(self.conv(F.gelu(self.conv(x, f"{name}.conv1")), f"{name}.conv2"))
                    x = F.gelu(x + self.conv(hidden, f"{name}.conv3"))
                else:
                    x = self.block(x, name, self.heads[stage], self.windows[stage])
            if stage < 3:
                name = f"layers.{stage}.downsample"
                x = F.gelu(self.conv(x, f"{name}.conv1"))
                x = F.gelu(self.conv(x, f"{name}.conv2", stride=2 if stage < 2 else 1))
                x = self.conv(x, f"{name}.conv3")
        x = self.norm2d(F.conv2d(x, self.t["neck.0.weight"]), "neck.1")
        return self.norm2d(F.conv2d(x, self.t["neck.2.weight"], padding=1), "neck.3")


@pytest.mark.parametrize("size", [224, 160])  # windows that fit exactly at every stage; windows that never do
def test_encoder_computes_the_published_one(folder: Path, shared_dir: Path, size: int) -> None:
    tensors = torch.load(shared_dir / "weights" / "mobile_sam.pt", weights_only=True)
    model = MobileSamModel.from_pretrained(folder, image_size=size, dtype=torch.float64).eval()
    pixels = torch.randn(1, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.get_image_embeddings(pixels), Reference(tensors)(pixels), rtol=1e-9, atol=1e-9)


# --- masks -----------------------------------------------------------------------------------------------------------


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    return (mask & truth).sum() / (mask | truth).sum()


def draw_scene(seed: int = 0) -> tuple[Image.Image, list[np.ndarray], list[list[float]]]:
    """A red disc and a blue rectangle on a textured grey ground: frame, true masks, a point (x, y) within each."""
    rng = np.random.default_rng(seed)
    texture = ndimage.gaussian_filter(rng.normal(size=(360, 480)), 6)
    frame = np.repeat((95 + 14 * texture / texture.std())[..., None], 3, axis=-1)
    y, x = np.mgrid[:360, :480]
    disc = (y - 120) ** 2 + (x - 140) ** 2 < 60**2
    rectangle = (abs(y - 250) < 60) & (abs(x - 350) < 70)
    frame[disc] = (210, 80, 60)
    frame[rectangle] = (70, 90, 220)
    frame += rng.normal(scale=4, size=frame.shape)
    return Image.fromarray(frame.clip(0, 255).astype(np.uint8)), [disc, rectangle], [[140, 120], [350, 250]]


def predict(
    model: MobileSamModel, processor: SamProcessor, image: Image.Image, multimask_output: bool = True, **prompts: list
) -> list[np.ndarray]:
    """For each prompted object the mask of the highest predicted IoU, at the image's size."""
    inputs = processor(image, return_tensors="pt", **prompts)
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    with torch.no_grad():
        outputs = model(**inputs, multimask_output=multimask_output)
    logits = outputs.pred_masks.float()
    masks = processor.post_process_masks(logits, inputs["original_sizes"], inputs["reshaped_input_sizes"])
    best = outputs.iou_scores[0].argmax(-1)
    return [mask[index].numpy() for mask, index in zip(masks[0], best, strict=True)]


@pytest.mark.parametrize("size", [512, 1024])
def test_point_prompts_on_drawn_objects(request: pytest.FixtureRequest, size: int) -> None:
    model, processor = request.getfixturevalue(f"at_{size}")
    image, truths, points = draw_scene()
    masks = predict(model, processor, image, input_points=[[[point] for point in points]])
    for mask, truth in zip(masks, truths, strict=True):
        assert mask.shape == truth.shape
        assert iou(mask, truth) > 0.95  # 0.98 to 0.99 at 512, over 0.99 at 1024


@pytest.mark.parametrize("size, frames, mean, lowest", [(512, 10, 0.55, 0.4), (1024, 2, 0.7, 0.6)])
def test_box_prompts_on_infrared_targets(
    request: pytest.FixtureRequest,
    shared_dir: Path,
    record_property: Callable[[str, object], None],
    size: int,
    frames: int,
    mean: float,
    lowest: float,
) -> None:
    """The first official test frames; a box runs from a target's first to its last pixel, inclusive.

    Over the first 24 frames (29 targets) the mean IoU is 0.63 at 512 and 0.81 at 1024, the lowest 0.48 and 0.67.
    """
    model, processor = request.getfixturevalue(f"at_{size}")
    data = shared_dir / "data" / "NUAA-SIRST"
    names = (data / "splits" / "official-427" / "test.txt").read_text().split()[:frames]
    found: dict[str, float] = {}
    for name in names:
        image = Image.open(data / "images" / f"{name}.png").convert("L").convert("RGB")
        mask = Image.open(data / "masks" / f"{name}_pixels0.png").convert("L")
        labels, _ = ndimage.label(np.asarray(mask) > 127, structure=np.ones((3, 3)))
        targets = ndimage.find_objects(labels)
        boxes = [[x.start, y.start, x.stop - 1, y.stop - 1] for y, x in targets]
        masks = predict(model, processor, image, multimask_output=False, input_boxes=[boxes])
        for number, prediction in enumerate(masks, start=1):
            found[f"{name}/{number}"] = round(float(iou(prediction, labels == number)), 3)
    print(f"IoU at {size}: {found}")
    record_property("iou", found)
    assert np.mean(list(found.values())) > mean
    assert min(found.values()) > lowest


def test_batch_equals_singles(at_512: tuple[MobileSamModel, SamProcessor]) -> None:
    model, processor = at_512
    frames = [draw_scene(seed)[0] for seed in range(2)]
    pixel_values = processor(frames, return_tensors="pt")["pixel_values"]
    together = model.get_image_embeddings(pixel_values)
    alone = torch.cat([model.get_image_embeddings(frame[None]) for frame in pixel_values])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_bfloat16(folder: Path, at_512: tuple[MobileSamModel, SamProcessor]) -> None:
    model = MobileSamModel.from_pretrained(folder, image_size=512, dtype=torch.bfloat16).eval()
    image, truths, points = draw_scene()
    masks = predict(model, at_512[1], image, input_points=[[[point] for point in points]])
    for mask, truth in zip(masks, truths, strict=True):
        assert iou(mask, truth) > 0.95
