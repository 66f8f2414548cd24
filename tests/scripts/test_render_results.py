"""Tables of the documents are what results/ holds; the renderer on made-up runs, which stay in a temporary folder."""

import json
from pathlib import Path

import numpy as np
import pytest

from scalpel_hf.evaluation.box_metrics import COUNTS as BOX_COUNTS
from scalpel_hf.evaluation.box_metrics import metrics_of_box_counts
from scalpel_hf.evaluation.comparison import COUNTS, bootstrap_differences, bootstrap_ratios, metrics_of_counts
from scripts.render_results import NOTHING, documents, main, render

MACHINE = {"cpus": 2, "cpu_capability": "AVX2", "accelerator": None}


def write_run(folder: Path, name: str, seed: int, frames: int = 20, held_out: int = 0, **changed: object) -> np.ndarray:
    """Made-up counts on frames of which `held_out` tells which they are."""
    generator = np.random.default_rng([seed, len(name)])
    counts = generator.integers([5, 20, 1, 0, 0, 1000], [20, 40, 3, 2, 9, 1001], size=(frames, len(COUNTS)))
    counts[:, COUNTS.index("n_targets")] = np.random.default_rng(held_out).integers(1, 3, frames)
    iou, niou, pd, fa = metrics_of_counts(counts[None], np.ones((1, frames), dtype=np.int64))[0, 0].tolist()
    record = {
        "arm": name,
        "dataset": folder.name,
        "seed": seed,
        "seconds": 90.0 + 60 * seed,
        "commit": "0123456789abcdef",
        "machine": MACHINE,
        "metrics": {"iou": iou, "niou": niou, "pd": pd, "fa": fa, "n_images": frames},
        "counts": {"columns": list(COUNTS), "frames": counts.tolist()},
    } | changed
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}-{seed}.json").write_text(json.dumps(record))
    return counts


def marked(asked: str, content: str = "") -> str:
    return f"# Title\n\n<!-- table: {asked} -->\n{content}<!-- end of table -->\n\nText.\n"


def cells(text: str, start: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_documents_show_what_the_results_say() -> None:
    """A figure changed by hand, or a run that isn't rendered yet, fails here: run scripts/render_results.py."""
    for path in documents():
        text = path.read_text(encoding="utf-8")
        assert render(text) == text, f"{path}: run scripts/render_results.py"


def test_a_row_has_the_mean_and_spread_of_its_seeds_and_the_time_of_the_fastest(tmp_path: Path) -> None:
    folder = tmp_path / "results/x/sea"
    metrics = []
    for seed in range(3):
        counts = write_run(folder, "teacher", seed)
        metrics.append(metrics_of_counts(counts[None], np.ones((1, 20), dtype=np.int64))[0, 0])
    text = render(marked("results/x/sea"), tmp_path)
    row = cells(text, "teacher")
    assert row[:2] == ["teacher", "0, 1, 2"] and row[-1] == "1.5"
    for cell, mean, deviation, unit in zip(
        row[2:6], np.mean(metrics, 0), np.std(metrics, 0, ddof=1), (100, 100, 100, 1), strict=True
    ):
        assert cell == f"{unit * mean:.1f} ± {unit * deviation:.1f}"
    assert "On 20 frames." in text and "0123456789ab\non 2 CPU cores with AVX2" in text
    assert text.endswith("<!-- end of table -->\n\nText.\n")


def test_a_folder_of_data_sets_names_them_even_if_there_is_one(tmp_path: Path) -> None:
    write_run(tmp_path / "results/x/sea", "teacher", 0)
    assert cells(render(marked("results/x"), tmp_path), "sea")[1] == "teacher"
    assert cells(render(marked("results/x/sea"), tmp_path), "teacher")[0] == "teacher"


def test_a_single_seed_has_no_spread(tmp_path: Path) -> None:
    write_run(tmp_path / "results/x", "student", 4)
    assert "±" not in " ".join(cells(render(marked("results/x"), tmp_path), "student"))


def test_a_difference_has_its_bootstrap_interval(tmp_path: Path) -> None:
    folder = tmp_path / "results/x/sea"
    first, second = (np.stack([write_run(folder, arm, seed) for seed in range(2)]) for arm in ("teacher", "small-net"))
    row = cells(render(marked("results/x/sea; teacher - small-net"), tmp_path), "teacher less small-net")
    low, high = np.percentile(bootstrap_differences(first, second)[:, 0], [2.5, 97.5])
    every = np.ones((1, 20), dtype=np.int64)
    mean = (metrics_of_counts(first, every) - metrics_of_counts(second, every))[:, 0, 0].mean()
    assert row[2] == f"{100 * mean:+.1f} ({100 * low:+.1f}, {100 * high:+.1f})"


def test_a_ratio_has_its_bootstrap_interval(tmp_path: Path) -> None:
    folder = tmp_path / "results/x/sea"
    first, second = (np.stack([write_run(folder, arm, seed) for seed in range(2)]) for arm in ("few", "all"))
    row = cells(render(marked("results/x/sea; few / all"), tmp_path), "few over all")
    low, high = np.percentile(bootstrap_ratios(first, second)[:, 0], [2.5, 97.5])
    every = np.ones((1, 20), dtype=np.int64)
    few, full = (metrics_of_counts(counts, every)[:, 0, 0].mean() for counts in (first, second))
    assert row[2] == f"{few / full:.3f} ({low:.3f}, {high:.3f})"
    with pytest.raises(ValueError, match="a comparison is two models"):
        render(marked("results/x/sea; few over all"), tmp_path)


def test_seeds_that_hold_out_other_frames_are_compared_on_all_of_them(tmp_path: Path) -> None:
    folder = tmp_path / "results/x"
    first, second = ([write_run(folder, arm, seed, held_out=seed) for seed in range(2)] for arm in ("a", "bb"))
    write_run(folder, "bb", 2, held_out=2)  # the other arm has not been trained on it
    low, high = np.percentile(
        bootstrap_differences(np.concatenate(first)[None], np.concatenate(second)[None]), [2.5, 97.5], axis=0
    )
    ious = [sum(counts[:, 0].sum() for counts in arm) / sum(c[:, 1].sum() for c in arm) for arm in (first, second)]
    text = render(marked("results/x; only; a - bb"), tmp_path)
    assert (
        cells(text, "a less bb")[2] == f"{100 * (ious[0] - ious[1]):+.1f} ({100 * low[0]:+.1f}, {100 * high[0]:+.1f})"
    )
    assert cells(text, "a less bb")[1] == "0, 1" and "draws of frames." in text


def test_a_folder_of_data_sets_gives_the_rows_of_each(tmp_path: Path) -> None:
    write_run(tmp_path / "results/x/sea", "teacher", 0)
    write_run(tmp_path / "results/x/sky", "teacher", 0, frames=7)
    text = render(marked("results/x"), tmp_path)
    assert cells(text, "sea")[1] == cells(text, "sky")[1] == "teacher"
    assert "On 20 frames of sea, 7 frames of sky." in text


def test_rendering_again_changes_nothing(tmp_path: Path) -> None:
    write_run(tmp_path / "results/x", "teacher", 0)
    once = render(marked("results/x", "old\n"), tmp_path)
    assert "old" not in once and render(once, tmp_path) == once


def test_a_figure_altered_by_hand_is_found(tmp_path: Path) -> None:
    write_run(tmp_path / "results/x", "teacher", 0)
    (tmp_path / "README.md").write_text(marked("results/x"))
    main([], tmp_path)
    main(["--check"], tmp_path)
    text = (tmp_path / "README.md").read_text()
    figure = cells(text, "teacher")[2]
    (tmp_path / "README.md").write_text(text.replace(figure, f"{float(figure) + 0.1:.1f}", 1))
    with pytest.raises(ValueError, match=r"README\.md: run"):
        main(["--check"], tmp_path)


def test_without_runs_it_says_so(tmp_path: Path) -> None:
    assert NOTHING in render(marked("results/x"), tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"metrics": {"iou": 0.9, "niou": 0.5, "pd": 1.0, "fa": 0.0}},
            "its metrics differ from those that its counts give",
        ),
        ({"arm": "student"}, "is of student"),
        ({"counts": {"columns": ["n_union"], "frames": []}}, "columns"),
    ],
)
def test_a_file_that_contradicts_itself_is_an_error(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    write_run(tmp_path / "results/x", "teacher", 0, **changed)
    with pytest.raises(ValueError, match=message) as error:
        render(marked("results/x"), tmp_path)
    assert "teacher-0.json" in str(error.value)


def test_what_cannot_be_compared_is_an_error(tmp_path: Path) -> None:
    write_run(tmp_path / "results/x", "teacher", 0)
    with pytest.raises(ValueError, match="no run of student"):
        render(marked("results/x; teacher - student"), tmp_path)
    write_run(tmp_path / "results/x", "student", 0, frames=9)
    with pytest.raises(ValueError, match="9 and 20 frames"):
        render(marked("results/x"), tmp_path)
    with pytest.raises(ValueError, match="end of table"):
        render("<!-- table: results/x -->\n", tmp_path)


def test_proposals_are_a_table_by_size(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "proposals"
    folder.mkdir(parents=True)
    place = {"commit": "abc", "machine": {"accelerator": None, "cpus": 2, "cpu_capability": "AVX2"}}
    objects = [[4, 1, 0.5], [10, 1, 1.0], [11, 1, 0.25], [400, 1, 0.75], [30, 2, 0.0]]
    file = {"labels": "drawn", "way": "operators", "columns": ["pixels", "targets", "iou"], "objects": objects, **place}
    (folder / "drawn-operators.json").write_text(json.dumps(file))
    text = render(marked("results/proposals"), tmp_path)
    row = next(line for line in text.splitlines() if line.startswith("| drawn"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:2] == ["drawn (5)", "operators"]
    assert [cell.split()[0] for cell in cells[2:]] == ["0.50", "0.75", "0.25", "–", "0.75", "0.00"]
    assert "2 CPU cores with AVX2" in text


def write_boxes_run(folder: Path, name: str, seed: int, counts: list[list[int]], **metrics: float) -> None:
    f1, pd, false = metrics_of_box_counts(np.array([counts]), np.ones((1, len(counts)), dtype=np.int64))[0, 0].tolist()
    found = {"f1": f1, "pd": pd, "false_alarms_per_frame": false, **metrics}
    counted = {"columns": list(BOX_COUNTS), "recordings": counts}
    write_run(folder, name, seed, metrics=found, counts=counted)


def test_runs_measured_by_boxes_have_columns_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "clips"
    write_boxes_run(folder, "few", 0, [[10, 5, 2, 10], [20, 10, 10, 20]], ap50=0.25)
    write_boxes_run(folder, "every", 0, [[10, 10, 0, 10], [20, 18, 0, 20]])
    text = render(marked("results/clips; every - few"), tmp_path)
    assert cells(text, "few")[2:7] == ["52.6", "50.0", "40.0", "25.0", "1.5"]
    assert cells(text, "every |")[2:6] == ["96.6", "93.3", "0.0", ""]
    assert cells(text, "every less few")[3].startswith("+43.3 (+40.0, +50.0)")
    assert "On 2 recordings. In brackets: 95 % of" in text
    write_run(folder, "masks", 0)
    with pytest.raises(ValueError, match="some of its runs were evaluated by masks and some by boxes"):
        render(marked("results/clips"), tmp_path)


def test_comparisons_can_stand_alone(tmp_path: Path) -> None:
    for name in ("sea", "sky"):
        for arm in ("teacher", "student"):
            write_run(tmp_path / "results/x" / name, arm, 0)
    whole = render(marked("results/x; teacher - student"), tmp_path)
    text = render(marked("results/x; only; teacher - student"), tmp_path)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 4 and "seeds" in lines[0] and "minutes" not in lines[0]
    assert len({line.count("|") for line in lines}) == 1
    assert "On 20 frames of sea, 20 frames of sky." in text and "±" not in text
    known = cells(whole, "sky | teacher less student")
    assert cells(text, "sky") == known[:-1]
