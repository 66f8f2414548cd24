"""The demo's report of a folder as the demo leaves it, its models untrained and its metrics made up."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import datasets
import pytest
from peft import get_peft_model

from scalpel_hf import (
    InfraredImageProcessor,
    ScalpelMoeConfig,
    SegmentationStudent,
    SyntheticInfrared,
    Teacher,
    load_sam,
)
from scalpel_hf.cli.demo_report import MODELS, STUDENTS, results, write_report
from scalpel_hf.data import apply_label_budget
from scalpel_hf.modeling.configuration_scalpel_student import ScalpelStudentConfig
from scalpel_hf.modeling.modeling_scalpel_student import ScalpelStudentForSemanticSegmentation
from scalpel_hf.pseudo_labels import add_pseudo_labels
from tests.small_models import SIZE, perturb, small_mobile_sam

QUALITY = {"iou": 0.4321, "niou": 0.2, "pd": 0.75, "fa": 12.34, "n_detected": 3, "n_targets": 4}
STAGES = [("teacher <1>", "python recipes/distill.py --config x.yaml", 70.4), ("pseudo labels", "python b.py", 5.0)]
CAMERA = {"size": (40, 56), "n_targets": (0, 2), "extent": (2, 5), "seed": 3}
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Fails on tags that are not closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open[-1] == "p" and tag != "p":  # whose end may be left out
            self.open.pop()
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    camera = SyntheticInfrared(**CAMERA)
    train, test = camera.to_dataset(8), camera.to_dataset(3, start=8)
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(str(out / "data"))
    small_mobile_sam().save_pretrained(out / "sam")
    model = get_peft_model(load_sam(out / "sam", SIZE), ScalpelMoeConfig(channels=8))
    perturb(model)
    teacher = Teacher(model, InfraredImageProcessor(sam_size=SIZE))
    teacher.save_pretrained(out / "teacher")
    add_pseudo_labels(apply_label_budget(train, 0.25), teacher).save_to_disk(str(out / "pseudo"))
    summary = {"human": 2, "pseudo": 6, "empty": 1, "one": 2, "many": 3, "quality": QUALITY}
    (out / "pseudo" / "summary.json").write_text(json.dumps(summary))
    for folder in STUDENTS:
        student = ScalpelStudentForSemanticSegmentation(ScalpelStudentConfig.from_size("nano"))
        SegmentationStudent(student.eval(), InfraredImageProcessor()).save_pretrained(out / folder)
    packages = {"torch": "1.2.3"}
    machine = {"cpus": 2, "cpu_capability": "AVX2", "accelerator": None, "python": "3.1", "packages": packages}
    for number, folder in enumerate(MODELS):
        metrics = {"iou": 0.1 * (number + 1), "niou": 0.111, "pd": 1.0, "fa": 45.67, "n_images": 3}
        record = {"metrics": {"test": metrics}, "machine": machine, "commit": "0123456789abcdef"}
        (out / folder / "metrics.json").write_text(json.dumps(record))
    return out


@pytest.fixture(scope="module")
def page(out: Path) -> str:
    return write_report(out, STAGES).read_text(encoding="utf-8")


def test_it_is_one_well_formed_file_that_needs_nothing_else(out: Path, page: str) -> None:
    parsed = Page(page)
    assert not parsed.open
    assert parsed.tags.count("img") == 3 * 8 + 4 * 4 and parsed.tags.count("figcaption") == parsed.tags.count("img")
    assert not {"script", "link", "iframe", "a"} & set(parsed.tags)
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)"', page))
    assert "http" not in re.sub(r'src="[^"]*"', "", page) and str(out) not in page
    assert not list(out.glob("*.part"))


def test_every_figure_is_the_runs_own(out: Path, page: str) -> None:
    for number, name in enumerate(MODELS.values()):
        assert results(out)[name]["iou"] == 0.1 * (number + 1)
        row = f"<td>{name}</td><td>{10 * (number + 1):.1f}</td><td>11.1</td><td>100.0</td><td>45.7</td>"
        assert row in page
    assert "<td>pseudo labels, on the 6 hidden frames</td><td>43.2</td><td>20.0</td><td>75.0</td><td>12.3</td>" in page
    assert "10 % alone reaches 50 %" in page and "with pseudo labels 75 %" in page  # of 40: 20 and 30
    assert "3 of\n4 targets found" in page


def test_times_commands_and_machine(page: str) -> None:
    assert "<td>teacher &lt;1&gt;</td><td>70</td>" in page and "<td>together</td><td>75</td>" in page
    assert "# teacher &lt;1&gt;\npython recipes/distill.py --config x.yaml\n" in page
    assert "2 CPUs, AVX2; Python 3.1, torch 1.2.3, commit 0123456789ab." in page


def test_every_expert_has_its_share(page: str) -> None:
    shares = re.findall(r"</span>([a-z ]+)</td><td>(\d+) %</td><td>(\d+) %</td>", page)
    assert [name for name, *_ in shares] == [
        "local contrast",
        "top hat",
        "matched filter",
        "anisotropic diffusion",
        "none",
    ]
    for column in (1, 2):
        assert abs(sum(int(share[column]) for share in shares) - 100) <= 2  # five roundings


def test_pictures_say_what_they_show(page: str) -> None:
    captions = re.findall(r"<figcaption>([^<]*)</figcaption>", page)
    assert captions.count("frame") == 7 and captions.count("the strongest expert") == 3
    assert captions.count("the teacher&#x27;s probability") == 4
    targets = [len(row["area"]) for row in SyntheticInfrared(**CAMERA).to_dataset(3, start=8)["objects"]]
    said = [caption.removeprefix("truth: ") for caption in captions if caption.startswith("truth: ")]
    assert said == [{0: "no target", 1: "1 target"}.get(count, f"{count} targets") for count in targets]
    for name in ("teacher", *STUDENTS.values()):
        found = [
            re.match(rf"{re.escape(name)}: (?:(\d) of (\d), )?\d+ false alarms?$", caption) for caption in captions
        ]
        assert [int(m[2] or 0) for m in found if m] == targets
