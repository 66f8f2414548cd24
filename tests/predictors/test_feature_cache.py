import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import get_peft_model
from torch import nn

from scalpel_hf import FeatureCache, FrozenFeatures, ScalpelMoeConfig, record_router
from scalpel_hf.adapter.families import base_of, family_of, tensors_of
from scalpel_hf.modeling.mask_level import MaskLevel
from scalpel_hf.predictors.sam import load_sam
from scalpel_hf.utils.files import DiskFullError
from tests.small_models import FAMILIES, perturb, random_inputs, small_mobile_sam, small_sam

BASES = {"sam": small_sam, "mobile-sam": small_mobile_sam}
SCALES = {"local_contrast": [3], "matched_filter": [1, 2]}


@pytest.fixture(params=BASES, ids=list(BASES))
def base(request: pytest.FixtureRequest) -> nn.Module:
    return BASES[request.param]()


def adapted(base: nn.Module, **kwargs: object) -> nn.Module:
    model = get_peft_model(base.requires_grad_(False), ScalpelMoeConfig(scales=SCALES, bottleneck=8, **kwargs)).eval()
    perturb(model)
    return model


@pytest.mark.parametrize(
    ("make", "kwargs", "last", "length"),
    [
        (small_sam, {"blocks": 1}, "layers.1", 3),
        (small_sam, {"blocks": 2}, "layers.0", 2),
        (small_sam, {"blocks": 3}, "patch_embed", 1),
        (small_sam, {"blocks": ["layers.0"]}, "patch_embed", 1),
        (small_sam, {"levels": ["pixel", "mask"]}, "neck", 5),
        (small_mobile_sam, {"blocks": 1}, "layers.2", 4),
        (small_mobile_sam, {"blocks": 3}, "layers.1", 3),
        (small_mobile_sam, {"levels": ["mask"]}, "neck", 6),
    ],
)
def test_which_stages_form_the_prefix(make, kwargs: dict, last: str, length: int) -> None:
    frozen = FrozenFeatures(adapted(make(), **kwargs))
    assert (frozen.length, frozen.names[-1]) == (length, last)


def test_an_encoder_that_trains_from_the_start_has_none() -> None:
    model = small_sam().requires_grad_(False)
    model.vision_encoder.patch_embed.requires_grad_(True)
    with pytest.raises(ValueError, match="trained from its first stage on"):
        FrozenFeatures(model)
    model = small_sam().requires_grad_(False)
    model.vision_encoder.pos_embed.requires_grad_(True)
    with pytest.raises(ValueError, match="trained from its first stage on"):
        FrozenFeatures(model)
    model = small_sam().requires_grad_(False)
    model.vision_encoder.neck.requires_grad_(True)
    assert FrozenFeatures(model).names[-1] == "layers.2"


@pytest.mark.parametrize("kwargs", [{"blocks": 1}, {"blocks": 2}, {"levels": ["pixel", "mask"]}], ids=str)
def test_embeddings_are_the_models_own(base: nn.Module, tmp_path: Path, kwargs: dict) -> None:
    model, inputs = adapted(base, **kwargs), random_inputs(seed=5)
    frozen = FrozenFeatures(model)
    cache = FeatureCache(frozen, tmp_path, "float32")
    with torch.no_grad():
        expected = model.get_base_model().get_image_embeddings(**inputs)
        states = torch.stack([cache.get(p) for p in inputs["pixel_values"]])
        actual = frozen.embeddings(states, inputs["frames"], inputs["frame_boxes"])
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
        masks = model(**inputs, multimask_output=False).pred_masks
        from_cache = model(image_embeddings=actual, multimask_output=False).pred_masks
    torch.testing.assert_close(from_cache, masks, rtol=0, atol=1e-5 * masks.abs().max().item())
    assert masks.std() > 0


@pytest.mark.parametrize("kwargs", [{"blocks": 1}, {"levels": ["pixel", "mask"]}], ids=str)
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_training_from_the_cache_is_training_without(
    base: nn.Module, tmp_path: Path, kwargs: dict, training: bool
) -> None:
    model, inputs = adapted(base, **kwargs), random_inputs(seed=5)
    for module in model.modules():
        if isinstance(module, MaskLevel):  # its batch norms use the batch, those of the frozen stages do not
            module.train(training)
    frozen = FrozenFeatures(model)
    cache = FeatureCache(frozen, tmp_path, "float32")

    def gradients(**given: torch.Tensor) -> dict[str, torch.Tensor]:
        model.zero_grad()
        with record_router() as records:
            masks = model(**given, multimask_output=False).pred_masks
        (masks.square().mean() + records[0]["prior"].square().mean()).backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    expected = gradients(**inputs)
    # The batch's own activations in their own memory layout: a convolution rounds a batch otherwise than its images
    # (they are compared above) and one layout otherwise than another, and where an activation lies within rounding of
    # a ReLU's corner the gradient of a sum over all pixels jumps.
    own = frozen.states(inputs["pixel_values"])
    for pixels, image in zip(inputs["pixel_values"], own, strict=True):
        cache.store(cache.key(pixels), image)
    states = torch.empty_like(own).copy_(torch.stack([cache.load(cache.key(p)) for p in inputs["pixel_values"]]))
    actual = gradients(image_embeddings=frozen.embeddings(states, inputs["frames"], inputs["frame_boxes"]))
    assert expected.keys() == actual.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    for name, value in expected.items():
        scale = value.abs().max().item()
        torch.testing.assert_close(actual[name], value, rtol=0, atol=1e-5 * max(scale, 1e-6), msg=name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@torch.no_grad()
def test_a_half_precision_base(base: nn.Module, tmp_path: Path, dtype: torch.dtype) -> None:
    model, inputs = adapted(base.to(dtype), blocks=1), random_inputs()
    frozen, half = FrozenFeatures(model), inputs["pixel_values"].to(dtype)
    cache = FeatureCache(frozen, tmp_path, "float32")
    states = torch.stack([cache.get(p) for p in half])
    assert torch.equal(states.to(dtype), frozen.states(half)) and len(list(tmp_path.iterdir())) == len(half)
    assert torch.equal(torch.stack([cache.get(p) for p in half.float()]), states)
    embeddings = frozen.embeddings(states, inputs["frames"], inputs["frame_boxes"])
    masks = model(image_embeddings=embeddings, multimask_output=False).pred_masks
    expected = model(**{**inputs, "pixel_values": half}, multimask_output=False).pred_masks
    assert expected.std() > 0 and torch.equal(masks, expected)


@pytest.mark.parametrize("levels", [["pixel", "mask"], ["pixel", "token", "mask"]], ids=len)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_trained_from_the_cache_as_without(family: str, levels: list[str], tmp_path: Path) -> None:
    model, inputs = adapted(FAMILIES[family](), levels=levels), random_inputs(seed=5)
    if family == "edgetam" and "token" in levels:
        with pytest.raises(ValueError, match=r"EdgeTamModel are backbone, neck: .*leave `token` out"):
            FrozenFeatures(model)
        return
    frozen = FrozenFeatures(model)
    cache = FeatureCache(frozen, tmp_path, "float32")
    assert frozen.length == len(frozen.stages) if "token" not in levels else 1 < frozen.length < len(frozen.stages)
    for pixels in inputs["pixel_values"]:
        cache.get(pixels)
    read = torch.stack([cache.load(cache.key(pixels)) for pixels in inputs["pixel_values"]])
    embeddings = FrozenFeatures(model).embeddings(read, inputs["frames"], inputs["frame_boxes"])  # of another process
    expected = model.get_image_embeddings(**inputs)
    for ours, theirs in zip(tensors_of(embeddings), tensors_of(expected), strict=False):  # SAM-HQ reads only one block
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    masks = model(**inputs, multimask_output=False).pred_masks
    ask = family_of(base_of(model)).ask
    from_cache, from_encoder = (
        model(**ask(found), multimask_output=False).pred_masks for found in (embeddings, expected)
    )
    for actual in (from_cache, from_encoder):
        torch.testing.assert_close(actual, masks, rtol=0, atol=1e-5 * masks.abs().max().item())
    assert masks.std() > 0
    from_cache.square().mean().backward()
    asleep = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert all(".scale_weights." in name for name in asleep)


def test_each_view_is_computed_once(tmp_path: Path) -> None:
    frozen, views = FrozenFeatures(small_mobile_sam().requires_grad_(False)), random_inputs(3)["pixel_values"]
    views = torch.cat([views, views.flip(-1)])
    computed: list[int] = []
    frozen.encoder.neck.register_forward_hook(lambda module, args, output: computed.append(len(output)))
    for _ in range(3):
        for cache in (FeatureCache(frozen, tmp_path), FeatureCache(frozen, tmp_path)):  # another run finds them too
            for view in views:
                cache.get(view)
    assert computed == [1] * 6 and len(list(tmp_path.iterdir())) == 6


def test_threads_may_write_the_same_entry(tmp_path: Path) -> None:
    cache = FeatureCache(FrozenFeatures(small_mobile_sam().requires_grad_(False)), tmp_path)
    pixel_values = random_inputs()["pixel_values"][0]
    states, key = cache.frozen.states(pixel_values[None])[0], cache.key(pixel_values)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: cache.store(key, states), range(40)))
    assert [f.name for f in tmp_path.iterdir()] == [f"{key}.npy"] and cache.load(key) is not None


def test_a_prefix_in_training_mode_is_refused() -> None:
    model = small_mobile_sam().requires_grad_(False).train()
    with pytest.raises(ValueError, match=r"call `model.eval\(\)`"):
        FrozenFeatures(model).states(random_inputs()["pixel_values"])
    assert (
        FrozenFeatures(small_sam().requires_grad_(False).train())
        .states(random_inputs()["pixel_values"])
        .isfinite()
        .all()
    )


def test_read_back_and_computed_are_the_same(base: nn.Module, tmp_path: Path) -> None:
    for dtype, tolerance in (("float16", 2e-3), ("float32", 0)):
        frozen, pixel_values = FrozenFeatures(adapted(base) if dtype == "float16" else base), random_inputs(1)
        cache = FeatureCache(frozen, tmp_path / dtype, dtype)
        first = cache.get(pixel_values["pixel_values"][0])
        again = cache.get(pixel_values["pixel_values"][0])
        exact = frozen.states(pixel_values["pixel_values"])[0]
        assert first.dtype == torch.float32 and torch.equal(first, again)
        torch.testing.assert_close(first, exact, rtol=tolerance, atol=tolerance)
        assert len(list((tmp_path / dtype).iterdir())) == 1


def test_another_weight_config_precision_or_input_is_another_entry(base: nn.Module, tmp_path: Path) -> None:
    pixel_values = random_inputs()["pixel_values"]
    model = adapted(base)

    def cache(dtype: str = "float16") -> FeatureCache:
        return FeatureCache(FrozenFeatures(model), tmp_path, dtype)

    before, key = cache().get(pixel_values[0]), cache().key(pixel_values[0])
    assert cache().key(pixel_values[1]) != key
    assert cache("float32").key(pixel_values[0]) != key
    perturb(model)  # the adapters, which are behind the frozen stages
    assert cache().key(pixel_values[0]) == key
    with torch.no_grad():
        next(model.get_base_model().vision_encoder.layers[0].parameters()).add_(1e-3)
    assert cache().key(pixel_values[0]) != key
    assert not torch.equal(cache().get(pixel_values[0]), before)
    changed = cache()
    changed.frozen.config["layer_norm_eps"] = 1e-2
    assert FeatureCache(changed.frozen, tmp_path).key(pixel_values[0]) != changed.key(pixel_values[0])


def test_another_image_size_is_another_entry(tmp_path: Path) -> None:
    small_mobile_sam().save_pretrained(str(tmp_path / "base"))
    keys = []
    for size in (64, 96):
        frozen = FrozenFeatures(load_sam(tmp_path / "base", size))
        keys.append(frozen.fingerprint())
        assert frozen.states(torch.zeros(1, 3, size, size)).shape[-1] == size // 16
    assert keys[0] != keys[1]
    assert keys[0] == FrozenFeatures(small_mobile_sam().requires_grad_(False)).fingerprint()  # saved or fresh


@pytest.mark.parametrize("keep", [0, 10, 100, 140, -1])
def test_a_damaged_entry_is_computed_again(tmp_path: Path, keep: int) -> None:
    cache = FeatureCache(FrozenFeatures(small_mobile_sam().requires_grad_(False)), tmp_path)
    pixel_values = random_inputs()["pixel_values"][0]
    expected, path = cache.get(pixel_values), cache.path(cache.key(pixel_values))
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    assert cache.load(cache.key(pixel_values)) is None
    assert torch.equal(cache.get(pixel_values), expected)
    assert path.read_bytes() == whole


def test_a_crash_in_the_middle_of_a_write_leaves_no_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache(FrozenFeatures(small_mobile_sam().requires_grad_(False)), tmp_path)
    pixel_values = random_inputs()["pixel_values"][0]

    def full_disk(file, array, **kwargs: object) -> None:
        file.write(b"\x93NUMPY")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full_disk)
        with pytest.raises(DiskFullError, match=r"no room for .*\.npy: it needs"):
            cache.get(pixel_values)
    assert not list(tmp_path.iterdir()) and cache.load(cache.key(pixel_values)) is None
    states = cache.frozen.states(pixel_values[None])[0]
    process = os.fork()  # the child only writes: after a fork OpenMP's threads are gone, and torch would wait for them
    if process == 0:  # killed before the rename: nothing is tidied up
        monkeypatch.setattr(os, "replace", lambda *_: os._exit(9))
        cache.store(cache.key(pixel_values), states)
    os.waitpid(process, 0)
    assert len(list(tmp_path.iterdir())) == 1 and cache.load(cache.key(pixel_values)) is None
    assert cache.get(pixel_values).isfinite().all()
    assert len(list(tmp_path.iterdir())) == 2
    FeatureCache(cache.frozen, tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]


def test_the_bound_is_kept(tmp_path: Path) -> None:
    frozen = FrozenFeatures(small_mobile_sam().requires_grad_(False))
    inputs = random_inputs(4)["pixel_values"]
    probe = FeatureCache(frozen, tmp_path / "probe")
    probe.get(inputs[0])
    entry = next((tmp_path / "probe").iterdir()).stat().st_size
    bound = 2 * entry + entry // 2

    def used() -> int:
        return sum(f.stat().st_size for f in (tmp_path / "cache").iterdir())

    cache = FeatureCache(frozen, tmp_path / "cache", max_bytes=bound)
    values = [cache.get(p) for p in inputs]
    assert used() == 2 * entry
    assert all(torch.equal(cache.get(p), v) for p, v in zip(inputs, values, strict=True))
    FeatureCache(frozen, tmp_path / "cache", max_bytes=bound).get(inputs[3])  # counts what is there already
    assert used() == 2 * entry
    together = [FeatureCache(frozen, tmp_path / "cache", max_bytes=bound + entry) for _ in range(2)]
    for cache, view in zip(together, inputs[2:], strict=True):  # and what another process has written since
        cache.get(view)
    assert used() == 3 * entry


def test_what_the_precision_cannot_hold_is_an_error(tmp_path: Path) -> None:
    frozen = FrozenFeatures(small_mobile_sam().requires_grad_(False))
    with torch.no_grad():
        frozen.encoder.neck.layer_norm2.weight.mul_(1e7)
    pixel_values = random_inputs()["pixel_values"][0]
    with pytest.raises(ValueError, match="float16 can't hold: set `feature_cache_dtype` to float32"):
        FeatureCache(frozen, tmp_path).get(pixel_values)
    assert FeatureCache(frozen, tmp_path, "float32").get(pixel_values).isfinite().all()
    with pytest.raises(ValueError, match="not 'bfloat16'"):
        FeatureCache(frozen, tmp_path, "bfloat16")
