"""Decisions on disk, and the rows that they make."""

import json
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from scalpel_hf.data import load_split, read_mask
from scalpel_hf.pseudo_labels import training_mask
from scalpel_hf.pseudo_labels.reviews import Decision, append_decisions, hash_frame, mask_of_runs, now, runs_of_mask
from tests.app.decisions import read_decisions

from .runs import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def fresh(run: Path) -> Path:
    (run / "review" / "decisions.jsonl").unlink(missing_ok=True)
    return run


def decided(name: str, decision: str = "mend", runs: tuple[int, ...] = (0, 2, 41, 1), frame: str = "no") -> Decision:
    return Decision(name, decision, "ada", now(), (32, 40), frame, runs)


def about(run: Path, name: str) -> Decision:
    """A decision about the frame that is there."""
    rows = load_split(run, "train")
    return decided(name, frame=hash_frame(rows[rows["name"][:].index(name)]))


def unlabelled(run: Path) -> list[str]:
    rows = load_split(run, "train")
    return [name for name, source in zip(rows["name"], rows["label_source"], strict=True) if source != "human"]


@given(st_numpy.arrays(bool, st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_a_mask_comes_back_from_its_runs(mask: np.ndarray) -> None:
    runs = runs_of_mask(mask)
    assert np.array_equal(mask_of_runs(runs, mask.shape), mask)
    assert len(runs) // 2 == np.sum(np.diff(mask.ravel().astype(int), prepend=0) == 1)


def test_runs_are_as_documented() -> None:
    assert runs_of_mask(np.array([[0, 1, 1], [0, 0, 1]])) == (1, 2, 5, 1)


@given(st.lists(st.integers(-5, 15), max_size=6))
def test_runs_that_are_no_mask_are_refused(runs: list[int]) -> None:
    try:
        mask = mask_of_runs(runs, (2, 5))
    except ValueError:
        return
    assert mask.sum() == sum(runs[1::2])


def test_a_decision_makes_a_human_row_at_once(fresh: Path) -> None:
    before = load_split(fresh, "train")
    assert "review" not in before.column_names
    name = unlabelled(fresh)[3]
    append_decisions(fresh, [about(fresh, name)])
    after = load_split(fresh, "train")
    assert after["name"][:] == before["name"][:], "the rows keep their order"
    row = next(row for row in after if row["name"] == name)
    assert row["label_source"] == "human" and row["pseudo_mask"] is None and row["teacher"] is None
    expected = np.zeros((32, 40), bool)
    expected[0, :2] = expected[1, 1] = True
    assert np.array_equal(read_mask(row["mask"]) > 0, expected)
    assert row["objects"]["area"] == [3.0]
    assert (row["review"]["by"], row["review"]["decision"]) == ("ada", "mend")
    assert row["review"]["at"].endswith("+00:00")
    target, weight = training_mask(row) or pytest.fail("no label")
    assert target.sum() == 3 and (weight == 1).all()
    others = [row for row in after if row["name"] != name]
    was = {row["name"]: row for row in before}
    assert all(row.pop("review") is None and row == was[row["name"]] for row in others)
    assert after._fingerprint != before._fingerprint


def test_the_last_decision_counts_and_can_be_undone(fresh: Path) -> None:
    first, second = unlabelled(fresh)[:2]
    rejected = replace(about(fresh, second), decision="reject", runs=())
    append_decisions(fresh, [decided(first), rejected, decided(first, "reject", ())])
    assert [(d.name, d.decision) for d in read_decisions(fresh).values()] == [(second, "reject"), (first, "reject")]
    append_decisions(fresh, [decided(first, "undo", ())])
    assert list(read_decisions(fresh)) == [second]
    assert first in unlabelled(fresh)


def test_a_line_that_a_crash_broke_off_is_lost_alone(fresh: Path) -> None:
    names = unlabelled(fresh)
    append_decisions(fresh, [decided(names[0])])
    path = fresh / "review" / "decisions.jsonl"
    with path.open("a") as file:
        file.write('{"name": "synth')
    with pytest.warns(UserWarning, match="line 2 is incomplete"):
        assert list(read_decisions(fresh)) == names[:1]
    append_decisions(fresh, [decided(names[1])])
    assert list(read_decisions(fresh)) == names[:2]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_last_line_without_its_end_is_kept(fresh: Path) -> None:
    names = unlabelled(fresh)
    append_decisions(fresh, [decided(names[0]), decided(names[1])])
    path = fresh / "review" / "decisions.jsonl"
    path.write_text(path.read_text().rstrip("\n"))
    append_decisions(fresh, [decided(names[2])])
    assert list(read_decisions(fresh)) == names[:3]


def test_a_line_that_ends_inside_a_character_is_incomplete(fresh: Path) -> None:
    names = unlabelled(fresh)
    path = fresh / "review" / "decisions.jsonl"
    append_decisions(fresh, [replace(decided(name), by="Zoë") for name in names[:2]])
    path.write_bytes(path.read_bytes()[: path.read_bytes().rindex("ë".encode()) + 1])
    with pytest.warns(UserWarning, match="line 2 is incomplete"):
        assert list(read_decisions(fresh)) == names[:1]
    append_decisions(fresh, [decided(names[2])])
    assert list(read_decisions(fresh)) == [names[0], names[2]]


def test_a_full_disk_takes_all_decisions_or_none(fresh: Path) -> None:
    names = unlabelled(fresh)
    path = fresh / "review" / "decisions.jsonl"
    append_decisions(fresh, [decided(names[0])])
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (1, len(before) + 5, 2 * len(before)):
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + room, hard))
        try:
            with pytest.raises(OSError, match="large"):
                append_decisions(fresh, [decided(name) for name in names[1:5]])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("not json", "line 1 isn't JSON"),
        ('{"name": "a"}', "line 1 isn't a decision"),
        ('{"name": "a", "decision": "burn", "by": "b", "at": "c", "size": [2, 2], "frame": "d", "runs": []}', "'burn'"),
        (
            '{"name": "a", "decision": "mend", "by": "b", "at": "c", "size": [2, 2], "frame": "d", "runs": [3, 2]}',
            "the frame of 2 × 2",
        ),
        ("[1]", "line 1 isn't a decision"),
        ("5", "line 1 isn't a decision"),
        (
            '{"name": [], "decision": "reject", "by": "b", "at": "c", "size": [2, 2], "frame": "d", "runs": []}',
            "isn't a decision",
        ),
    ],
)
def test_what_is_no_decision_is_named(fresh: Path, line: str, complaint: str) -> None:
    (fresh / "review").mkdir(exist_ok=True)
    (fresh / "review" / "decisions.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=complaint):
        load_split(fresh, "train")


def test_decisions_about_other_frames_are_skipped(fresh: Path) -> None:
    first, second = unlabelled(fresh)[:2]
    by_people = next(row["name"] for row in load_split(fresh, "train") if row["label_source"] == "human")
    append_decisions(fresh, [decided("nobody"), decided(first), about(fresh, by_people), about(fresh, second)])
    with pytest.warns(UserWarning, match=f"about nobody, {first}, {by_people} are skipped") as said:
        rows = load_split(fresh, "train")
    assert len(said) == 1
    assert {row["name"] for row in rows if row["review"]} == {second}
