"""Training and inference as transformers' guide to semantic segmentation has them, with nothing of this project but the
import that makes the student known."""

import json
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from scalpel_hf import InfraredImageProcessor, SegmentationStudent
from scalpel_hf.predictors.student import new_student
from tests.small_students import small_student

SCRIPT = """
import json, sys
import numpy as np
import scalpel_hf
import torch
from datasets import load_from_disk
from torch import nn
from transformers import (
    AutoImageProcessor, AutoModelForSemanticSegmentation, Trainer, TrainingArguments, pipeline,
)

data, checkpoint, output = sys.argv[1:]
ds = load_from_disk(data)
train_ds, test_ds = ds["train"], ds["test"]
id2label = {0: "background", 1: "drone"}
label2id = {v: k for k, v in id2label.items()}
num_labels = len(id2label)

image_processor = AutoImageProcessor.from_pretrained(checkpoint)

def transforms(example_batch):
    images = [x for x in example_batch["image"]]
    labels = [x for x in example_batch["annotation"]]
    inputs = image_processor(images, labels)
    return inputs

train_ds.set_transform(transforms)
test_ds.set_transform(transforms)

def compute_metrics(eval_pred):
    with torch.no_grad():
        logits, labels = eval_pred
        logits_tensor = torch.from_numpy(logits)
        logits_tensor = nn.functional.interpolate(
            logits_tensor, size=labels.shape[-2:], mode="bilinear", align_corners=False,
        ).argmax(dim=1)
        pred_labels = logits_tensor.detach().cpu().numpy()
        pred_labels[labels == 255] = 255
        ious = [
            float(((pred_labels == c) & (labels == c)).sum() / ((pred_labels == c) | (labels == c)).sum())
            for c in range(num_labels)
        ]
        return {"per_category_iou": ious}

model = AutoModelForSemanticSegmentation.from_pretrained(checkpoint, id2label=id2label, label2id=label2id)
training_args = TrainingArguments(
    output_dir=output, learning_rate=1e-2, num_train_epochs=12, per_device_train_batch_size=4,
    per_device_eval_batch_size=4, eval_strategy="no", save_strategy="no", remove_unused_columns=False, use_cpu=True,
    report_to="none", disable_tqdm=True, seed=0,
)
trainer = Trainer(
    model=model, args=training_args, train_dataset=train_ds, eval_dataset=test_ds, compute_metrics=compute_metrics,
)
trainer.train()
result = {"trained": trainer.evaluate()["eval_per_category_iou"]}
trainer.save_model(output)
image_processor.save_pretrained(output)

# Inference
image = load_from_disk(data)["test"][0]["image"]
image_processor = AutoImageProcessor.from_pretrained(output)
model = AutoModelForSemanticSegmentation.from_pretrained(output)
encoding = image_processor(image, return_tensors="pt")
with torch.no_grad():
    outputs = model(pixel_values=encoding.pixel_values)
logits = outputs.logits.cpu()
upsampled_logits = nn.functional.interpolate(logits, size=image.size[::-1], mode="bilinear", align_corners=False)
by_hand = upsampled_logits.argmax(dim=1)[0]
processed = image_processor.post_process_semantic_segmentation(outputs, [image.size[::-1]])[0]
segmenter = pipeline("image-segmentation", model=output, device="cpu")
by_pipeline = {s["label"]: np.asarray(s["mask"]) > 0 for s in segmenter(image)}
result |= {
    "by_hand": by_hand.tolist(),
    "processed": processed.tolist(),
    "by_pipeline": by_pipeline["drone"].astype(int).tolist(),
}
print(json.dumps(result))
"""


def write_data(folder: Path, mask_of: dict[int, int]) -> np.ndarray:
    """Frames with one bright target each, and the first test mask."""
    rng = np.random.default_rng(0)
    rows: dict[str, list] = {"image": [], "annotation": []}
    for _ in range(24):
        frame, mask = rng.normal(100, 8, (48, 64)), np.zeros((48, 64), np.uint8)
        row, column = rng.integers(2, 44, 2)
        mask[row : row + 3, column : column + 4] = 1
        frame[mask > 0] += 120
        mask[:2] = 2
        rows["image"].append(Image.fromarray(frame.clip(0, 255).astype(np.uint8)))
        rows["annotation"].append(Image.fromarray(np.vectorize(mask_of.get)(mask).astype(np.uint8)))
    features = datasets.Features({"image": datasets.Image(), "annotation": datasets.Image()})
    data = datasets.Dataset.from_dict(rows, features=features)
    splits = {"train": data.select(range(16)), "test": data.select(range(16, 24))}
    datasets.DatasetDict(splits).save_to_disk(str(folder))
    return np.asarray(rows["annotation"][16])


def test_an_unmodified_script_trains_and_finds(tmp_path: Path) -> None:
    truth = write_data(tmp_path / "data", {0: 0, 1: 1, 2: 255})
    torch.manual_seed(0)
    new_student("segmentation", size="nano").save_pretrained(tmp_path / "fresh")
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py", "data", "fresh", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["trained"][1] > 0.8, result["trained"]
    by_hand = np.array(result["by_hand"])
    assert (by_hand[truth == 1] == 1).mean() > 0.8 and by_hand[2:].sum() < 30
    np.testing.assert_array_equal(result["processed"], by_hand)
    np.testing.assert_array_equal(result["by_pipeline"], by_hand)
    frame = datasets.load_from_disk(str(tmp_path / "data"))["test"][0]["image"]
    ours = SegmentationStudent.from_pretrained(tmp_path / "out").probabilities(frame)
    np.testing.assert_array_equal(ours > 0.5, by_hand == 1)


def test_all_ways_of_reading_the_logits_agree() -> None:
    student = small_student()
    frame = np.random.default_rng(1).normal(0, 1, (33, 40)).astype(np.float32)
    expected = torch.from_numpy(student.probabilities(frame))
    with torch.no_grad():
        pixel_values = student.processor(frame, return_tensors="pt")["pixel_values"]
        logits, foreground = student.model(pixel_values=pixel_values).logits, student.model.foreground(pixel_values)
    assert logits.shape == (1, student.model.config.num_labels, 33, 40)
    assert 0 < (expected > 0.5).float().mean() < 1
    assert torch.equal(foreground.sigmoid()[0, 0], expected)
    assert student.model.classifier.weight.shape == (4, 8, 3, 3)  # one channel, as students saved earlier have it
    torch.testing.assert_close(logits.sigmoid()[0, 1], expected)
    torch.testing.assert_close(logits.softmax(1)[0, 1], expected)
    assert torch.equal(logits.argmax(1)[0], (expected > 0.5).long())
    labels = torch.randint(0, 2, (1, 33, 40))
    log_likelihood = (torch.where(labels == 1, expected, 1 - expected)).log().mean()
    torch.testing.assert_close(nn.functional.cross_entropy(logits, labels), -log_likelihood)


def test_segmentation_maps_become_labels() -> None:
    processor = InfraredImageProcessor(size_divisor=8)
    frames = [np.arange(20 * 12.0).reshape(20, 12)] * 2
    maps = [np.zeros((20, 12), np.uint8), np.ones((20, 12), bool)]
    maps[0][3, 4], maps[0][5] = 1, 255
    expected = np.full((2, 24, 16), 255)
    expected[0, :20, :12], expected[1, :20, :12] = maps[0], 1
    for given in (maps, [Image.fromarray(one) for one in maps], [torch.from_numpy(one) for one in maps]):
        labels = processor(frames, given, return_tensors="pt")["labels"]
        assert labels.dtype == torch.int64
        np.testing.assert_array_equal(labels, expected)
    stacked = np.stack([maps[0], maps[1].astype(np.uint8)])
    np.testing.assert_array_equal(processor(frames, stacked, return_tensors="np")["labels"], expected)
    palette = Image.fromarray(maps[0]).convert("P")
    palette.putpalette([9, 9, 9] * 256)
    np.testing.assert_array_equal(processor(frames[0], palette, return_tensors="np")["labels"], expected[:1])


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ([np.zeros((4, 5))], "1 segmentation maps do not pair with 2 frames"),
        ([np.zeros((4, 5)), np.full((4, 5), 7)], "map 1 has values such as 7: 0 is background"),
        ([np.zeros((4, 5)), np.full((4, 5), np.nan)], "map 1 has values such as nan"),
        ([np.zeros((4, 5)), np.zeros((5, 4))], r"map 1 has the shape \(5, 4\), its frame \(4, 5\)"),
        ([np.zeros((4, 5)), Image.new("RGB", (5, 4))], r"map 1 has the shape \(4, 5, 3\)"),
        ([np.zeros((4, 5)), "mask.png"], "map 1 is str: pass an image"),
    ],
)
def test_wrong_segmentation_maps(maps: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InfraredImageProcessor()([np.eye(4, 5)] * 2, maps)


def test_a_mask_of_0_and_255_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="255 is what a training ignores"):
        InfraredImageProcessor()(np.eye(4), 255 * np.eye(4, dtype=np.uint8))


def test_other_numbers_of_classes_are_refused() -> None:
    from scalpel_hf import ScalpelStudentConfig, ScalpelStudentDetectionConfig

    for config, count in ((ScalpelStudentConfig, 3), (ScalpelStudentConfig, 1), (ScalpelStudentDetectionConfig, 2)):
        with pytest.raises(Exception, match=f"not {count}"):
            config(num_labels=count)
