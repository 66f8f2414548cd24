"""Cards of models that are published on the Hub."""

from pathlib import Path

from huggingface_hub import ModelCard

from scalpel_hf.utils.files import read_json

from .card_parts import as_card, closing_text, figures_text, metadata, picture_text, training_text
from .provenance import NOTHING_KNOWN, Provenance, base_on_hub, read_record

FRAME = "frame = np.random.default_rng(0).normal(1000, 20, (96, 128))  # or a path, or a PIL image"


def teacher_card(
    folder: str | Path, repo_id: str, provenance: Provenance = NOTHING_KNOWN, picture: bool = False
) -> ModelCard:
    """
    Card of an adapter in a folder that `scalpel-hf distill` wrote.

    Args:
        provenance: with a `base_model` unless the adapter was trained on one from the Hub.
        picture: whether a picture grid goes along.

    Raises `ValueError` for a base that was loaded from a folder, without the Hub's id for it.
    """
    folder, record = Path(folder), read_record(folder)
    config = read_json(folder / "adapter_config.json")
    base = base_on_hub(config["base_model_name_or_path"], provenance.base_model)
    size = read_json(folder / "preprocessor_config.json")["sam_size"]
    name = repo_id.split("/")[-1]
    data = metadata(
        record,
        provenance,
        name,
        library_name="peft",
        base_model=base,
        base_model_relation="adapter",
        tags=["base_model:adapter:" + base, "scalpel-moe", "segment-anything"],
    )
    text = f"""# {name}

A teacher that finds small targets in infrared frames: an adapter of the PEFT type `SCALPEL_MOE` on the Segment Anything
model [{base}](https://huggingface.co/{base}), whose own weights are frozen and not in this repository. It needs no
prompt, and takes {size} x {size} pixels. Its main use is to label frames that no human has labelled.
{picture_text(picture, record)}
## How to load it

```python
import numpy as np
from scalpel_hf import Teacher

teacher = Teacher.from_pretrained("{repo_id}")
{FRAME}
probabilities = teacher.probabilities(frame)  # (height, width), from 0 to 1
```

{_pipeline_text(repo_id)}
With PEFT, around a base that you load yourself:

```python
from peft import PeftModel
from scalpel_hf import load_sam

model = PeftModel.from_pretrained(load_sam("{base}", image_size={size}), "{repo_id}")
```
{_auto_model_text(repo_id, size, provenance, "MobileSam" in str(config.get("auto_mapping")))}
{training_text(record, provenance, "distill")}
{figures_text(record)}
{closing_text(record, f"The adapter: Apache-2.0. The base: see [{base}](https://huggingface.co/{base}).")}"""
    return as_card(data, text)


def standalone_card(
    folder: str | Path, repo_id: str, provenance: Provenance = NOTHING_KNOWN, picture: bool = False
) -> ModelCard:
    """Card of a stand-alone teacher, a [`ScalpelSamModel`], in a folder with its run's metrics.json."""
    record, name = read_record(folder), repo_id.split("/")[-1]
    base = base_on_hub(record["arguments"].get("base_model"), provenance.base_model)
    size = read_json(Path(folder) / "processor_config.json")["image_processor"]["sam_size"]
    data = metadata(
        record,
        provenance,
        name,
        library_name="transformers",
        base_model=base,
        base_model_relation="finetune",
        tags=["scalpel_sam", "segment-anything", "custom_code"],
    )
    text = f"""# {name}

A teacher that finds small targets in infrared frames: the Segment Anything model
[{base}](https://huggingface.co/{base}) with a hierarchical mixture of experts inside it, all weights in this
repository. It needs no prompt, and takes {size} x {size} pixels; with points or boxes it is still Segment Anything.
{picture_text(picture, record)}
## How to load it

```python
import numpy as np
import torch
import scalpel_hf  # makes the model type known
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{repo_id}").eval()
processor = AutoProcessor.from_pretrained("{repo_id}")
{FRAME}
inputs = processor(frame)
with torch.no_grad():
    outputs = model(**inputs)
mask = processor.post_process_semantic_segmentation(outputs, inputs["original_sizes"])[0]  # (height, width), 0 and 1
targets = processor.post_process_object_detection(outputs, 0.5, inputs["original_sizes"])[0]  # scores and boxes
probabilities = processor.post_process_probabilities(outputs, inputs["original_sizes"])[0]
```

Without scalpel-hf, leave its import out and pass `trust_remote_code=True` to both `from_pretrained`: that runs the code
in this repository, which needs torch and transformers alone. Read it first.

{_pipeline_text(repo_id)}
With a prompt, in pixels of the frame:

```python
inputs = processor(frame, input_points=[[[40, 30]]])  # x, y
with torch.no_grad():
    outputs = model(**inputs, multimask_output=True)
masks = processor.post_process_masks(outputs.pred_masks, inputs["original_sizes"])[0]  # (prompts, 3, height, width)
```

What the experts saw, and which of them was asked where, is in `model(**inputs, output_router=True)`.

{training_text(record, provenance, "distill")}
{figures_text(record)}
{closing_text(record, f"The weights: Apache-2.0, and what the base asks for: [{base}](https://huggingface.co/{base}).")}"""
    return as_card(data, text)


def student_card(
    folder: str | Path, repo_id: str, provenance: Provenance = NOTHING_KNOWN, picture: bool = False
) -> ModelCard:
    """Card of a student in a folder that `scalpel-hf transfer` wrote."""
    record, name = read_record(folder), repo_id.split("/")[-1]
    model_type = read_json(Path(folder) / "config.json")["model_type"]
    own, detector = model_type.startswith("scalpel_student"), record["arguments"].get("task") == "detection"
    data = metadata(
        record,
        provenance,
        name,
        library_name="transformers",
        pipeline_tag="object-detection" if detector else "image-segmentation",
        tags=[model_type, "custom_code"],
    )
    labels = "human masks and a teacher's pseudo labels" if record["arguments"].get("pseudo_labels") else "human masks"
    network = "A small convolutional network" if own else f"A model of transformers' type `{model_type}`"
    given = "boxes with scores" if detector else "a probability for each pixel"
    auto_class = f"AutoModelFor{'ObjectDetection' if detector else 'SemanticSegmentation'}"
    result = (
        'targets = processor.post_process_object_detection(outputs, 0.5, inputs["original_sizes"])[0]'
        if detector
        else 'probabilities = processor.post_process_probabilities(outputs, inputs["original_sizes"])[0]'
    )
    text = f"""# {name}

{network} that finds small targets in infrared frames, trained on {labels}. It gives {given}, at the frame's own size.
{picture_text(picture, record)}
## How to load it

```python
import numpy as np
import torch
import scalpel_hf  # makes the model type and its image processor known
from transformers import AutoImageProcessor, {auto_class}

model = {auto_class}.from_pretrained("{repo_id}").eval()
processor = AutoImageProcessor.from_pretrained("{repo_id}")
{FRAME}
inputs = processor(frame, return_tensors="pt")
with torch.no_grad():
    outputs = model(pixel_values=inputs["pixel_values"])
{result}
```

Without scalpel-hf, leave its import out and pass `trust_remote_code=True` to both `from_pretrained`: that runs the code
in this repository, which needs torch and transformers alone. Read it first.

{_pipeline_text(repo_id, detector)}
{training_text(record, provenance, "transfer")}
{figures_text(record)}
{closing_text(record, "The weights: Apache-2.0.")}"""
    return as_card(data, text)


def _pipeline_text(repo_id: str, detector: bool = False) -> str:
    if detector:
        return f"""As a pipeline of transformers, which takes 8-bit images:

```python
from scalpel_hf.pipelines import to_8_bits
from transformers import pipeline

find = pipeline("object-detection", model="{repo_id}")
found = find(to_8_bits(frame), threshold=0.5)  # a list of targets: score, label and box
```
"""
    return f"""As a pipeline, for frames of 8 or 16 bits, one or many:

```python
import scalpel_hf  # makes the pipeline known
from transformers import pipeline

find = pipeline("infrared-small-target-detection", model="{repo_id}")
found = find(frame, threshold=0.5)  # a list of targets: score, label, box and mask
```
"""


def _auto_model_text(repo_id: str, size: int, provenance: Provenance, mobile: bool) -> str:
    """How transformers loads adapter and base at once; it can't where a `SamModel`'s position tables are resized."""
    if not mobile and provenance.base_size not in (None, size):
        return f"""
`AutoModel.from_pretrained("{repo_id}")` gives the base its own input size, {provenance.base_size} pixels, which is not
what this adapter was trained at.
"""
    return f"""
With transformers, which loads the base too:

```python
import scalpel_hf  # makes the adapter's type known
from transformers import AutoModel

model = AutoModel.from_pretrained("{repo_id}"{f", image_size={size}" if mobile else ""})
```
"""
