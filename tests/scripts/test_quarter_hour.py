"""A short lease of one GPU, tried on a CPU with a few steps: packed, stopped, gone on with elsewhere."""

import shutil
import tarfile
from pathlib import Path

import archives
import numpy as np
import pytest
from safetensors.torch import load_file

from scalpel_hf.modeling.frame_io import read_frame
from scripts.experiments import quarter_hour, reproduce

from .test_reproduce import published  # noqa: F401


@pytest.fixture
def packs(published: Path, tmp_path: Path) -> Path:  # noqa: F811
    root = tmp_path / "irstd-1k"
    shutil.copytree(published, root, ignore=shutil.ignore_patterns("base"))
    argv = ["pack", "--datasets", f"irstd-1k={root}", "--base-model", str(published / "base"), "--megabytes", "0.05"]
    quarter_hour.main([*argv, "--out", str(tmp_path / "packs")])
    return tmp_path / "packs"


def run(packs: Path, machine: Path, state: Path, minutes: float) -> None:
    """One lease: nothing but the archives and the state comes from elsewhere."""
    argv = ["run", "--packs", str(packs), "--minutes", str(minutes), "--seeds", "0", "2", "--budget", "0.5", "--quick"]
    argv += ["--jobs", "2", "--data", str(machine / "data"), "--work", str(machine / "work")]
    quarter_hour.main([*argv, "--out", str(machine / "out"), "--state", str(state)])


def results(machine: Path) -> dict[str, bytes]:
    return {str(path.relative_to(machine / "out")): path.read_bytes() for path in (machine / "out").rglob("*.json")}


def test_what_is_packed_comes_out_as_it_was(published: Path, packs: Path, tmp_path: Path) -> None:  # noqa: F811
    parts = sorted(packs.iterdir())
    assert len(parts) > 1
    for part in parts:
        with tarfile.open(part) as archive:
            assert part.stat().st_size <= 50_000 or len(archive.getnames()) == 1
    files = (archives.unpacked(name, content) for name, content in archives.read_archives(packs))
    archives.write_below(tmp_path / "out", files)
    for path in (published / "IRSTD1k_Img").iterdir():
        assert np.array_equal(read_frame(path), read_frame(tmp_path / "out/irstd-1k/IRSTD1k_Img" / path.name))
    weights = load_file(tmp_path / "out/base/model.safetensors")
    for name, tensor in load_file(published / "base/model.safetensors").items():
        assert weights[name].dtype == tensor.dtype
        assert (weights[name] - tensor).abs().max() <= 1e-3 * tensor.abs().max() + 1e-7, name


# Stands for reproduce.py: two arms a seed, of which the second takes an hour on the first machine.
PROGRAM = """
import json, sys, time
from pathlib import Path
given = dict(zip(sys.argv[1:], sys.argv[2:]))
work, out, seed = Path(given["--work"]) / "irstd-1k-0.5", Path(given["--out"]) / "irstd-1k-0.5", given.get("--seeds")
def write(path, content="{}"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
if seed == "0":
    if not (work / "teacher-0" / "metrics.json").exists():
        write(work / "teacher-0" / "metrics.json")
        write(work / "teacher-0" / "adapter_model.safetensors")
        for made_again in ("teacher-0/checkpoint-8/weights", "teacher-0/features/frame", "labels-0/state.json"):
            write(work / made_again)
        write(work / "few-masks-0" / "model.safetensors")
        write(out / "few-masks-0.json", "first")
    if not (work / "pseudo-labels-0" / "checkpoint-4").exists():
        write(work / "pseudo-labels-0" / "checkpoint-4")
        time.sleep(3600)
    write(out / "pseudo-labels-0.json", "second")
"""


def test_what_a_lease_leaves_for_the_next(packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    monkeypatch.setattr(quarter_hour, "REPRODUCE", program)
    state = tmp_path / "state"
    run(packs, tmp_path / "first", state, minutes=0.05)
    left = {name for name, _ in archives.read_archives(state) if not name.endswith(".log")}
    of_work = {"teacher-0/metrics.json", "teacher-0/adapter_model.safetensors", "pseudo-labels-0/checkpoint-4"}
    assert left == {f"work/irstd-1k-0.5/{name}" for name in of_work} | {"out/irstd-1k-0.5/few-masks-0.json"}
    run(packs, tmp_path / "second", state, minutes=1)
    done = {"irstd-1k-0.5/few-masks-0.json": b"first", "irstd-1k-0.5/pseudo-labels-0.json": b"second"}
    assert results(tmp_path / "second") == done

    program.write_text("import sys; sys.exit('no' if '2' in sys.argv else 0)")
    with pytest.raises(RuntimeError, match=r"failed: see irstd-1k-2\.log in"):
        run(packs, tmp_path / "third", state, minutes=1)
    assert results(tmp_path / "third") == done, "one that fails takes nothing of the others along"


@pytest.mark.slow
def test_a_lease_that_ends_too_soon_is_gone_on_with_elsewhere(packs: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    run(packs, tmp_path / "first", state, minutes=0.7)
    run(packs, tmp_path / "second", state, minutes=20)
    expected = {f"irstd-1k-0.5/{arm}-{seed}.json" for arm in reproduce.ARMS for seed in (0, 2)}
    assert set(results(tmp_path / "second")) == expected
    run(packs, tmp_path / "third", state, minutes=20)  # nothing is left to do
    assert results(tmp_path / "second") == results(tmp_path / "third")


def test_what_is_no_archive_or_not_whole_is_refused(packs: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years")
    argv = ["pack", "--datasets", f"irstd-1k={tmp_path / 'irstd-1k'}", "--base-model", str(tmp_path / "irstd-1k")]
    with pytest.raises(FileExistsError, match="precious holds other things than archives of this program"):
        quarter_hour.main([*argv, "--out", str(precious)])
    with pytest.raises(FileExistsError, match="irstd-1k holds other things"):
        quarter_hour.main([*argv, "--out", str(tmp_path / "irstd-1k")])
    with pytest.raises(FileExistsError, match="precious holds other things"):
        run(packs, tmp_path / "machine", precious, minutes=1)
    assert (precious / "thesis.txt").read_text() == "years" and not (tmp_path / "machine").exists()

    whole = (packs / "part-1.tar").read_bytes()
    for cut in (whole[:9000], whole[:100], b"", b"garbage" * 400):
        (packs / "part-1.tar").write_bytes(cut)
        with pytest.raises(ValueError, match=r"part-1\.tar is no whole archive: fetch it again"):
            list(archives.read_archives(packs))
    (packs / "part-1.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"packs lacks part-1\.tar"):
        list(archives.read_archives(packs))
    with pytest.raises(ValueError, match="would be written outside"):
        archives.write_below(tmp_path / "below", [("../escaped.txt", b"")])
    (tmp_path / "irstd-1k" / "XDU.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"XDU\.png can't be read: cannot identify image"):
        quarter_hour.main([*argv, "--out", str(tmp_path / "other")])
    with pytest.raises(ValueError, match="names a data set twice"):
        quarter_hour.main([*argv[:3], argv[2], *argv[3:], "--out", str(tmp_path / "other")])
    archives.write_archives([("base/config.json", b"{}")], tmp_path / "base-alone", 1)
    with pytest.raises(ValueError, match="base-alone holds none of nuaa-sirst"):
        run(tmp_path / "base-alone", tmp_path / "machine", tmp_path / "state", minutes=1)


def test_a_data_set_that_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        quarter_hour.main(["pack", "--datasets", "mine=data", "--base-model", "base", "--out", "packs"])
    assert "nuaa-sirst" in capsys.readouterr().err
