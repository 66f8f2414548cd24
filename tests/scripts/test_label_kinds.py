import argparse
from collections import Counter
from xml.etree import ElementTree

import pytest

from scalpel_hf import SyntheticInfrared
from scalpel_hf.data import LabelBudget
from scripts.experiments.label_kinds import ARMS, label

CAMERA = SyntheticInfrared(size=(40, 56), n_targets=(1, 2), extent=(2, 5), seed=5)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> argparse.Namespace:
    """Six frames, a box around all targets of each, and a budget of two."""
    root, rows = tmp_path_factory.mktemp("kinds"), CAMERA.to_dataset(6)
    for row in rows:
        boxes = row["objects"]["bbox"]
        corners = {"xmin": min(b[0] for b in boxes) + 1, "ymin": min(b[1] for b in boxes) + 1}
        corners |= {"xmax": max(b[0] + b[2] for b in boxes), "ymax": max(b[1] + b[3] for b in boxes)}
        annotation = ElementTree.Element("annotation")
        box = ElementTree.SubElement(ElementTree.SubElement(annotation, "object"), "bndbox")
        for side, value in corners.items():
            ElementTree.SubElement(box, side).text = str(value)
        ElementTree.ElementTree(annotation).write(root / f"{row['name']}.xml")
    LabelBudget(tuple(sorted(rows["name"][:2])), 1 / 3, 0, 6).save(root / "budget.json")
    return argparse.Namespace(budget=root / "budget.json", voc=root, rows=rows)


@pytest.mark.parametrize(
    ("arm", "sources"),
    [
        ("34-masks", {"human": 2, "none": 4}),
        ("34-masks-307-boxes", {"human": 2, "box": 4}),
        ("34-boxes", {"box": 2, "none": 4}),
        ("34-points", {"point": 2, "none": 4}),
        ("341-masks", {"human": 6}),
    ],
)
def test_what_each_arm_is_told(given: argparse.Namespace, arm: str, sources: dict[str, int]) -> None:
    rows = label(given, given.rows, ARMS[arm])
    assert Counter(rows["label_source"]) == sources
    for row, before in zip(rows, given.rows, strict=True):
        assert (row["mask"] is not None) == (row["label_source"] == "human")
        targets = 0 if row["objects"] is None else len(row["objects"]["bbox"])
        all_of_them = len(before["objects"]["bbox"])
        assert targets == {"none": 0, "box": 1}.get(row["label_source"], all_of_them)
