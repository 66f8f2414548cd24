"""The adapter in trainers that aren't this project's: transformers', and a loop of one's own in two processes."""

import copy
import gc
import re
import socket
from pathlib import Path

import datasets
import pytest
import torch
import torch.multiprocessing as mp
from peft import PeftModel, get_peft_model
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from scalpel_hf import ScalpelMoeConfig, ScalpelSamModel, SyntheticInfrared, Teacher, apply_label_budget
from scalpel_hf.modeling.teacher_loss import BALANCE_WEIGHT, PRIOR_WEIGHT, teacher_losses
from scalpel_hf.training.recipe_arguments import DistillArguments
from scripts.render_results import ROOT
from tests.small_models import FAMILIES, SIZE, small_mobile_sam, small_sam

LEVELS = [["token"], ["mask"], ["pixel", "mask"], ["token", "mask"], ["pixel", "token", "mask"]]
SCALES = {"local_contrast": [3], "top_hat": [2], "matched_filter": [1, 2], "anisotropic_diffusion": [2]}


class Frames(Dataset):
    """Frames of noise with a bright square each, which is the target."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(i)
        frame, labels = torch.randn(1, 32, 32, generator=generator), torch.zeros(32, 32)
        top, left = torch.randint(2, 26, (2,), generator=generator).tolist()
        frame[0, top : top + 3, left : left + 3] += 8
        labels[top : top + 3, left : left + 3] = 1
        pixel_values = nn.functional.interpolate(frame[None], (SIZE, SIZE), mode="bilinear")[0].expand(3, -1, -1)
        box = torch.tensor([0.0, 0.0, SIZE, SIZE])
        return {"pixel_values": pixel_values, "frames": frame, "frame_boxes": box, "labels": labels}


def batch(count: int = 2) -> dict[str, torch.Tensor]:
    return torch.utils.data.default_collate([Frames()[i] for i in range(count)])


def adapted(base: nn.Module, **kwargs: object) -> PeftModel:
    torch.manual_seed(0)
    return get_peft_model(base, ScalpelMoeConfig(**{"scales": SCALES, "channels": 8, "bottleneck": 8, **kwargs}))


def without_gradient(model: nn.Module) -> list[str]:
    model.train()
    model(**batch()).loss.backward()
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("routers", [True, False], ids=["routers", "no-routers"])
@pytest.mark.parametrize("levels", LEVELS, ids="-".join)
@pytest.mark.parametrize("make", [small_sam, small_mobile_sam])
def test_every_trainable_parameter_has_a_say_in_the_loss(make, levels: list[str], routers: bool) -> None:
    model = adapted(make(), levels=levels, routers=routers)
    assert without_gradient(copy.deepcopy(model)) == []
    alone = ScalpelSamModel.from_peft(model)
    trainable = {name for name, p in alone.named_parameters() if p.requires_grad}
    assert len(trainable) == sum(p.requires_grad for p in model.parameters())
    assert all("mask_level." in name or ".adapter." in name for name in trainable)
    assert without_gradient(alone) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_in_every_family(family: str) -> None:
    assert without_gradient(adapted(FAMILIES[family]())) == []


@pytest.mark.parametrize("settings", [{}, {"scales": {}, "levels": ["token", "mask"]}, {"top_k": 1}], ids=str)
def test_with_other_settings(settings: dict) -> None:
    assert without_gradient(adapted(small_sam(), **settings)) == []


def test_without_sam_the_frames_alone_have_a_say() -> None:
    model = adapted(small_sam(), levels=["pixel", "mask"], sam_features=False)
    assert without_gradient(model) == []
    with pytest.raises(ValueError, match=r"`sam_features` off, .* leave `token` out of `levels`"):
        ScalpelMoeConfig(sam_features=False)


@torch.no_grad()
def test_the_loss_is_the_recipes_and_the_same_alone() -> None:
    model = adapted(small_sam())
    inputs = batch()
    inputs["labels"][:, :4] = 255
    output = model(**inputs)
    alone = ScalpelSamModel.from_peft(model)(**inputs, output_router=True)
    torch.testing.assert_close(output.loss, alone.loss, rtol=1e-5, atol=0)
    assert output.pred_masks.shape == (2, 1, 1, 32, 32)
    weight = (inputs["labels"] != 255).float()[:, None]
    target = inputs["labels"][:, None] * weight
    recipe = DistillArguments()
    assert (recipe.supervised_weight, recipe.prior_weight, recipe.balance_weight) == (1, PRIOR_WEIGHT, BALANCE_WEIGHT)
    losses = teacher_losses(alone.pred_masks[:, 0], target, weight, dict(alone))
    expected = losses["supervised"] + PRIOR_WEIGHT * losses["prior"] + BALANCE_WEIGHT * losses["balance"]
    torch.testing.assert_close(output.loss, expected, rtol=1e-5, atol=0)
    with pytest.raises(ValueError, match="one mask a prompt"):
        model(**inputs, multimask_output=True)
    with pytest.raises(ValueError, match="together"):
        model(inputs["pixel_values"], frames=inputs["frames"])
    assert not hasattr(model(inputs["pixel_values"]), "loss")  # and an error leaves nothing behind


def test_a_frozen_encoders_batch_norms_stay_as_they_are() -> None:
    model = adapted(small_mobile_sam())
    before = {n: b.clone() for n, b in model.named_buffers() if "running" in n}
    model.train()
    model(**batch()).loss.backward()
    moved = {n for n, b in model.named_buffers() if "running" in n and not torch.equal(b, before[n])}
    assert moved and all("scalpel_moe_" in name for name in moved)


def trained(model: nn.Module, folder: Path, **kwargs: object) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=12,
        per_device_train_batch_size=4,
        learning_rate=5e-3,
        logging_steps=1,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **kwargs,
    )
    trainer = Trainer(model, arguments, train_dataset=Frames(), eval_dataset=Frames())
    trainer.train()
    return trainer


@pytest.mark.parametrize("alone", [False, True], ids=["adapter", "stand-alone"])
def test_transformers_trainer(alone: bool, tmp_path: Path) -> None:
    model = adapted(small_sam())
    model = ScalpelSamModel.from_peft(model) if alone else model
    trainer = trained(model, tmp_path)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 12 and losses[-1] < 0.5 * losses[0]
    assert trainer.evaluate()["eval_loss"] > 0
    trainer.save_model(str(tmp_path / "saved"))
    model.eval()
    if alone:
        again = ScalpelSamModel.from_pretrained(tmp_path / "saved")
        assert {n for n, p in again.named_parameters() if p.requires_grad} == {
            n for n, p in model.named_parameters() if p.requires_grad
        }
    else:
        again = PeftModel.from_pretrained(small_sam(), str(tmp_path / "saved")).eval()
    inputs = {key: value for key, value in batch().items() if key != "labels"}
    with torch.no_grad():
        expected = model(**inputs, multimask_output=False).pred_masks
        torch.testing.assert_close(again(**inputs, multimask_output=False).pred_masks, expected, rtol=1e-4, atol=1e-4)


def test_the_page_as_a_user_follows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "how_to" / "train_with_any_trainer.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    small_mobile_sam().save_pretrained("models/mobile-sam")
    frames = apply_label_budget(SyntheticInfrared(size=(32, 40), n_targets=(1, 2), seed=3).to_dataset(8), 0.5)
    datasets.DatasetDict({"train": frames}).save_to_disk("data/nuaa-10pct")
    assert "max_steps=1000," in block
    exec(block.replace("max_steps=1000,", "max_steps=2, use_cpu=True, report_to='none',"), {"__name__": "page"})
    teacher = Teacher.from_pretrained("runs/any/teacher")
    assert teacher.probabilities(frames[0]["image"]).shape == (32, 40)


def test_accumulated_batches_are_averaged(tmp_path: Path) -> None:
    first = [
        trained(adapted(small_sam(), levels=["mask"]), tmp_path / str(steps), gradient_accumulation_steps=steps)
        for steps in (1, 2)
    ]
    losses = [trainer.state.log_history[0]["loss"] for trainer in first]
    assert losses[1] == pytest.approx(losses[0], rel=0.3)  # other frames, but no sum of two


def work(rank: int, port: int) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    train_in_parallel(adapted(small_sam()), rank)
    train_in_parallel(ScalpelSamModel.from_peft(adapted(small_sam())), rank)
    # Whoever holds a group last frees it. DDP does so with Python's lock, which the group's thread may be waiting for:
    # then the process hangs.
    gc.collect()
    torch.distributed.destroy_process_group()


def train_in_parallel(model: nn.Module, rank: int) -> None:
    parallel = DistributedDataParallel(model.train(), find_unused_parameters=False)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), 5e-3)
    losses = []
    for step in range(4):
        frames = torch.utils.data.default_collate([Frames()[(4 * step + 2 * rank + i) % 8] for i in range(2)])
        loss = parallel(**frames).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    weights = torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])
    other = weights.clone()
    torch.distributed.broadcast(other, 0)
    assert torch.equal(weights, other), "the processes' weights differ"
    assert losses[-1] < losses[0]


def test_a_loop_of_ones_own_in_two_processes() -> None:
    """With the adapter, and with the stand-alone model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (port,), nprocs=2)
