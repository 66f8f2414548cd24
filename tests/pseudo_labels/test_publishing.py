"""A labelled data set on the Hub: what loads there, and what its card says."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from huggingface_hub import DatasetCard, HfApi

from scalpel_hf.evaluation.unseen import TrainedOn
from scalpel_hf.hub.upload import push_dataset
from scalpel_hf.pseudo_labels import Rules, label_in_shards
from scalpel_hf.pseudo_labels.against_truth import compare_with_truth
from scalpel_hf.pseudo_labels.report import write_report
from scalpel_hf.utils.files import write_json
from tests.hub.server import HubServer
from tests.pseudo_labels.helpers import FakeTeacher, budgeted, camera, raw, with_image

REPO = "org/labels"
ELSEWHERE = f"""
import json
import numpy as np
from datasets import load_dataset

plain = load_dataset("{REPO}", split="train")
stream = load_dataset("{REPO}", split="train", streaming=True)
assert plain.features == stream.features
columns = ["name", "label_source", "pseudo_objects", "pseudo_score", "teacher"]
assert list(plain.select_columns(columns)) == list(stream.select_columns(columns))
masks = [[row[c] and np.ravel(row[c]).tolist() for c in ("mask", "pseudo_mask", "pseudo_confidence")] for row in stream]
plain.save_to_disk("../plain")
json.dump(masks, open("../masks.json", "w"))

from scalpel_hf.evaluation.unseen import TrainedOn
json.dump([frame.name for frame in TrainedOn.load("{REPO}").frames], open("../trained_on.json", "w"))
"""


@pytest.fixture
def client(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HfApi:
    monkeypatch.setattr("scalpel_hf.hub.upload.HfApi", lambda: HfApi(endpoint=hub.endpoint, token=hub.token))
    return HfApi(endpoint=hub.endpoint, token=hub.token)


def test_shards_take_one_threshold_too(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`threshold` is 0\.7, but that of `rules` is 0\.5"):
        label_in_shards(budgeted(), FakeTeacher(), tmp_path / "out", 0.7, rules=Rules(min_area=2))


def test_a_run_is_published_with_all_it_says_of_itself(hub: HubServer, client: HfApi, tmp_path: Path) -> None:
    out, index = tmp_path / "run", budgeted()["label_source"][:].index("none")
    rows, truth = with_image(budgeted(), index, b"no image"), camera().to_dataset(10)
    labelled = label_in_shards(
        rows,
        FakeTeacher(),
        out,
        0.8,
        "org/teacher",
        rules=Rules(0.8, min_area=2),
        revision="abc",
        skip_broken=True,
        report=lambda _: None,
    )
    quality = compare_with_truth(labelled, truth)
    write_json(out / "summary.json", json.loads((out / "summary.json").read_text()) | {"quality": quality})
    write_report(out, labelled, truth, quality)
    TrainedOn.of(truth.select([0, 1])).save(out)
    labelled = labelled.select([i for i in range(10) if i != index])  # whose frame nothing can decode
    push_dataset(labelled, REPO, license="mit", run=out)

    (tmp_path / "elsewhere").mkdir()
    hub.run(ELSEWHERE, tmp_path / "elsewhere")
    again = datasets.load_from_disk(str(tmp_path / "plain"))
    assert again.features == labelled.features
    for column in labelled.column_names:
        assert raw(again, column) == raw(labelled, column), column
    pixels = [
        [row[c] and np.ravel(row[c]).tolist() for c in ("mask", "pseudo_mask", "pseudo_confidence")] for row in labelled
    ]
    assert json.loads((tmp_path / "masks.json").read_text()) == pixels

    files = client.list_repo_files(REPO, repo_type="dataset")
    assert json.loads((tmp_path / "trained_on.json").read_text()) == truth["name"][:2]
    grid = client.hf_hub_download(REPO, "examples.png", repo_type="dataset", cache_dir=tmp_path / "hub")
    assert Path(grid).read_bytes() == (out / "report" / "grid.png").read_bytes()
    summary = client.hf_hub_download(REPO, "summary.json", repo_type="dataset", cache_dir=tmp_path / "hub")
    assert json.loads(Path(summary).read_text())["skipped"] == [rows["name"][index]]
    assert {"README.md", "examples.png", "summary.json", "data/train-00000-of-00001.parquet"} <= set(files)
    path = client.hf_hub_download(REPO, "README.md", repo_type="dataset", cache_dir=tmp_path / "hub")
    card = DatasetCard(Path(path).read_text())
    assert card.data.license == "mit" and "pseudo-labels" in card.data.tags
    for words in (
        "`org/teacher` at revision `abc`",
        f"IoU {100 * quality['iou']:.1f} %",
        f"Of {quality['objects']} labelled objects {quality['true_objects']} are targets",
        "1 could not be labelled",
        "| `pseudo_confidence` |",
        "take these pixels for neither target nor background",
        "](examples.png)",
        "Images and human masks: `mit`",
    ):
        assert words in " ".join(card.text.split()), words


def test_without_a_run_the_card_tells_less(hub: HubServer, client: HfApi, tmp_path: Path) -> None:
    labelled = label_in_shards(budgeted(), FakeTeacher(), tmp_path / "run", report=lambda _: None)
    push_dataset(labelled, REPO)
    path = client.hf_hub_download(REPO, "README.md", repo_type="dataset", cache_dir=tmp_path / "hub")
    text = Path(path).read_text()
    assert "| `pseudo_mask` |" in text and "examples.png" not in text and "hidden" not in text
    assert "summary.json" not in client.list_repo_files(REPO, repo_type="dataset")
