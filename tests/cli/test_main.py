"""The command `scalpel-hf` itself; tests/test_packaging.py tries it installed."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scalpel_hf.cli import launching
from scalpel_hf.cli.main import VERBS, main
from scalpel_hf.utils.flags import with_hyphens
from scalpel_hf.utils.recipe_files import ACCELERATE, RECIPES, recipe_file
from scalpel_hf.version import __version__


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command here; its exit code."""
    monkeypatch.setattr(sys, "argv", ["/some/where/scalpel-hf", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0  # type: ignore[return-value]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_module_and_examples_in_its_help(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert call(monkeypatch, verb, "--help") == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: scalpel-hf {verb} [")
    assert re.search(rf"^Examples:\n\n    scalpel-hf {verb}", text, re.MULTILINE)
    assert not re.search(r"--\w+_", text), "flags are spelt with hyphens"


def help_without(heavy: set[str], *verb: str) -> str:
    """What `--help` prints, if it has imported none of `heavy`."""
    code = f"""
import sys
from scalpel_hf.cli.main import main
sys.argv = ["scalpel-hf", *{verb!r}, "--help"]
try:
    main()
finally:
    assert not {heavy!r} & set(sys.modules), {heavy!r} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_imports_nothing_heavy() -> None:
    text = help_without({"torch", "transformers", "datasets", "numpy", "rich", "huggingface_hub"})
    assert all(f"  {verb} " in text for verb in VERBS) and "...\n  " not in text


@pytest.mark.parametrize("verb", ["run", "demo", "prepare", "convert", "predict"])
def test_help_of_what_people_begin_with_imports_no_torch(verb: str) -> None:
    assert help_without({"torch", "transformers"}, verb).startswith(f"usage: scalpel-hf {verb} [")


def test_wrong_verbs_and_flags(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert call(monkeypatch, "--version") == 0 and capsys.readouterr().out == f"{__version__}\n"
    assert call(monkeypatch, "distil") == 2
    assert "No such command 'distil'" in capsys.readouterr().err
    assert call(monkeypatch, "prepare", "--synthetic", "0", "--out", "x") == 2
    assert "argument --synthetic: must be a whole number from 1" in capsys.readouterr().err
    assert call(monkeypatch, "convert", "two") == 2
    assert "invalid choice: 'two'" in capsys.readouterr().err


def test_an_error_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scalpel_hf", "predict", "/absent", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: '/absent' is neither a folder nor") and done.stderr.count("\n") == 1


def test_underscores_in_flags_are_hyphens(monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_hyphens("--base_model=my_model") == "--base-model=my_model"
    assert [with_hyphens(a) for a in ("my_model", "-1_0", "--", "data_set/a")] == [
        "my_model",
        "-1_0",
        "--",
        "data_set/a",
    ]
    seen: list[list[str]] = []
    monkeypatch.setattr("scalpel_hf.cli.evaluate.main", seen.append)
    assert call(monkeypatch, "evaluate", "--base_model", "my_model", "--pseudo_labels=a_b") == 0
    assert seen == [["--base-model", "my_model", "--pseudo-labels=a_b"]]


def test_a_recipes_flags_in_either_spelling(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    distill = importlib.import_module("scalpel_hf.recipes.distill")
    for flag in ("--max_steps", "--max-steps"):
        with pytest.raises(SystemExit):
            distill.main([flag, "many"])
        assert "argument --max-steps: invalid int value: 'many'" in capsys.readouterr().err


def test_recipes_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert recipe_file("nuaa_sirst/distill_10pct") == RECIPES / "nuaa_sirst" / "distill_10pct.yaml"
    assert recipe_file("presets/demo/distill.yaml") == RECIPES / "presets" / "demo" / "distill.yaml"
    assert recipe_file("cpu", ACCELERATE) == RECIPES / ACCELERATE / "cpu.yaml"
    (tmp_path / "irstd_1k").mkdir()
    (tmp_path / "irstd_1k" / "distill_10pct").write_text("seed: 1")
    assert recipe_file("irstd_1k/distill_10pct") == Path("irstd_1k/distill_10pct")  # a file counts before the package's
    with pytest.raises(
        FileNotFoundError, match=r"no file 'nuaa/distill'; the package has irstd_1k/distill_10pct, irstd_1k/tr"
    ):
        recipe_file("nuaa/distill")
    with pytest.raises(FileNotFoundError, match="has cpu, cpu_two_processes, one_gpu"):
        recipe_file("gpu", ACCELERATE)


@pytest.mark.parametrize(
    ("gpu", "flags", "expected"),
    [
        (False, ["--num-processes", "2"], ["--config_file", "cpu_two_processes.yaml", "--num_processes", "2"]),
        (False, ["--num-processes=1"], ["--config_file", "cpu.yaml", "--num_processes", "1"]),
        (True, ["--num-processes", "4"], ["--multi_gpu", "--num_processes", "4", "--num_machines", "1"]),
        (True, ["--accelerate-config", "several_gpus"], ["--config_file", "several_gpus.yaml"]),
    ],
)
def test_several_processes_are_started_by_accelerate(
    gpu: bool, flags: list[str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr(launching, "launch", started.append)
    with pytest.raises(SystemExit):
        launching.launch_or_rest("scalpel_hf.recipes.distill", ["--seed", "3", *flags, "--levels", "pixel", "mask"])
    (command,) = started
    command = [Path(part).name if part.endswith(".yaml") else part for part in command]
    assert command[: len(expected)] == expected
    assert command[-7:] == ["-m", "scalpel_hf.recipes.distill", "--seed", "3", "--levels", "pixel", "mask"]


def test_without_those_flags_nothing_is_started() -> None:
    assert launching.launch_or_rest("module", ["--seed", "3"]) == ["--seed", "3"]


def test_where_a_process_fails_the_last_line_points_to_its_message() -> None:
    command = [sys.executable, "-m", "scalpel_hf", "label", "--num-processes", "2"]
    done = subprocess.run([*command, "--dataset", "absent", "--teacher", "x"], capture_output=True, text=True)
    *_, last = done.stderr.strip().splitlines()
    assert done.returncode != 0 and re.fullmatch(r"error: process \d stopped; its own message stands above", last)
    assert "Traceback" not in done.stderr and "--out" in done.stderr
