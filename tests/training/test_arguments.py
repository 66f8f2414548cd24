import math
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_type_hints

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from scalpel_hf.training.arguments import Between, decide_the_result, option, parse_arguments
from scalpel_hf.training.recipe_arguments import DistillArguments, LoopArguments, TransferArguments


@dataclass
class Arguments(LoopArguments):
    levels: list[str] = option(["pixel", "mask"], "Levels.")
    scales: list[int] = option([1, 2], "Scales.")


@pytest.fixture
def parse(tmp_path: Path):
    def parse(text: str, *flags: str) -> Arguments:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return parse_arguments(Arguments, "verb", "A recipe.", ["--config", str(path), *flags])

    return parse


def test_defaults_without_a_file() -> None:
    assert parse_arguments(Arguments, "verb", "A recipe.", []) == Arguments()


def test_the_file_counts_and_flags_override_it(parse) -> None:
    text = "max_steps: 7\nlearning_rate: 2.0e-3\nresume: false\nlevels: [mask]\nreport_to: tensorboard\n"
    args = parse(text)
    assert (args.max_steps, args.learning_rate, args.resume, args.levels) == (7, 2e-3, False, ["mask"])
    assert args.batch_size == Arguments().batch_size
    args = parse(text, "--max_steps", "9", "--levels", "pixel", "token", "mask", "--report_to", "none")
    assert (args.max_steps, args.levels, args.report_to) == (9, ["pixel", "token", "mask"], "none")
    assert args.learning_rate == 2e-3


def test_booleans_both_ways(parse) -> None:
    assert parse("seed: 1").resume is True
    assert parse("seed: 1", "--no_resume").resume is False
    assert parse("resume: false", "--resume", "true").resume is True


def test_an_empty_file_is_all_defaults(parse) -> None:
    assert parse("# nothing\n") == Arguments()


def test_numbers_as_people_write_them(parse) -> None:
    assert parse("learning_rate: 2e-3").learning_rate == 2e-3  # which YAML 1.1 takes for a string
    learning_rate = parse("learning_rate: 1").learning_rate
    assert learning_rate == 1.0 and isinstance(learning_rate, float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_step: 7\nfoo: 1", r"unknown fields foo, max_step; the fields are .*levels, .*max_steps"),
        ("1: 2", "unknown fields 1;"),
        ("max_steps: true", "`max_steps` must be a whole number, got True"),
        ("max_steps: 1.5", "`max_steps` must be a whole number, got 1.5"),
        ("max_steps: '7'", "`max_steps` must be a whole number, got '7'"),
        ("learning_rate: fast", "`learning_rate` must be a number, got 'fast'"),
        ("learning_rate: false", "`learning_rate` must be a number, got False"),
        ("learning_rate:", "`learning_rate` must be a number, got None"),
        ("resume: 1", "`resume` must be true or false, got 1"),
        ("resume: 'false'", "`resume` must be true or false, got 'false'"),
        ("output_dir: 7", "`output_dir` must be text, got 7"),
        ("levels: mask", "`levels` must be a list, got 'mask'"),
        ("levels: [mask, 3]", "`levels` must be text"),
        ("scales: [1, true]", "`scales` must be a whole number"),
        ("- mask", "must hold an object of names and values, and holds a list"),
        ("seed: [", "can't be read as YAML"),
        ("seed: 010", "`seed` must be a whole number, got '010'"),
        ("seed: 1:30", "`seed` must be a whole number, got '1:30'"),
        ("seed: 1\nseed: 2", "'seed' is there twice"),
        ("learning_rate: '1e-3'", "`learning_rate` must be a number, got '1e-3'"),
    ],
)
def test_wrong_files(parse, capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(text)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert re.search(message, error), error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("checkpoint_steps: 0", "error: `checkpoint_steps` must be between 1 and 1e+08, got 0"),
        ("batch_size: -1", "error: `batch_size` must be between 1 and 4096, got -1"),
        ("batch_size: 100000", "error: `batch_size` must be between 1 and 4096, got 100000"),
        ("seed: -1", "error: `seed` must be between 0 and 4.29497e+09, got -1"),
        ("learning_rate: .nan", "error: `learning_rate` must be between 0 and 1, got nan"),
        ("learning_rate: 1e300", "error: `learning_rate` must be between 0 and 1, got 1e+300"),
        ("max_grad_norm: .inf", "error: `max_grad_norm` must be between 0 and 1e+06, got inf"),
        ("mixed_precision: fp8", "error: `mixed_precision` must be one of auto, no, bf16, fp16, got 'fp8'"),
        ("report_to: paper", "error: `report_to` must be one of none, .*tensorboard, .*wandb.*, got 'paper'"),
        ("ema_decay: 1.0", "error: `ema_decay` must be between 0 and 0.999999, got 1.0"),
    ],
)
def test_values_out_of_range(parse, text: str, message: str) -> None:
    with pytest.raises(SystemExit, match=message.replace("+", r"\+")):
        parse(text)


RECIPES = [LoopArguments, DistillArguments, TransferArguments]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_number_has_bounds_and_none_is_beyond_them(recipe: type) -> None:
    plain, limited = get_type_hints(recipe), get_type_hints(recipe, include_extras=True)
    for name in (name for name, kind in plain.items() if kind in (int, float)):
        (limits,) = getattr(limited[name], "__metadata__", ["none"])
        assert isinstance(limits, Between), f"{name} has no bounds"
        for value in (limits.low - 1, limits.high + 1, 1e300, -1e300, math.nan, math.inf, -math.inf):
            with pytest.raises(ValueError, match=rf"`{name}` must be between"):
                recipe(**{name: value})
        for value in (limits.low, limits.high):
            recipe(**{name: plain[name](value)})


def test_every_tracker_of_accelerate_is_taken_where_its_package_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalpel_hf.training.recipe_arguments.get_available_trackers", lambda: [*LOGGER_TYPE_TO_CLASS])
    for name in LOGGER_TYPE_TO_CLASS:
        assert LoopArguments(report_to=name).report_to == name
    monkeypatch.setattr("scalpel_hf.training.recipe_arguments.get_available_trackers", list)
    with pytest.raises(ValueError, match="`report_to: wandb` needs that tracker's package, which isn't installed"):
        LoopArguments(report_to="wandb")


def test_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "picture.yaml").write_bytes(b"\x89PNG\xff\xfe")
    for path, message in (
        (tmp_path / "absent.yaml", "there is no file"),
        (tmp_path, "is a folder, not a file"),
        (tmp_path / "picture.yaml", "is no text in UTF-8"),
    ):
        with pytest.raises(SystemExit):
            parse_arguments(Arguments, "verb", "A recipe.", ["--config", str(path)])
        error = capsys.readouterr().err
        assert str(path) in error and message in error


def test_a_wrong_flag_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(Arguments, "verb", "A recipe.", ["--max_steps", "many"])
    assert "--max-steps" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse_arguments(Arguments, "verb", "A recipe.", ["--stepps", "1"])
    assert "--stepps" in capsys.readouterr().err


def test_help_explains_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_arguments(Arguments, "verb", "A recipe.", ["--help"])
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for f in fields(Arguments):
        assert f"--{f.name.replace('_', '-')}" in shown
        assert len(f.metadata["help"]) > 5 and f.metadata["help"].split(",")[0] in shown


@dataclass
class WithAblation(Arguments):
    parts: bool = option(True, "Off, without a part.", in_help=False)
    logs: str = option("logs", "Where logs lie.", any_on_resume=True)


def test_what_an_ablation_needs_is_taken_and_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert not parse_arguments(WithAblation, "verb", "A recipe.", ["--parts", "false"]).parts
    with pytest.raises(SystemExit):
        parse_arguments(WithAblation, "verb", "A recipe.", ["--help"])
    shown = capsys.readouterr().out
    assert "--parts" not in shown and "--logs" in shown


def test_the_fields_that_decide_the_result() -> None:
    decisive = decide_the_result(WithAblation())
    assert {"parts", "seed", "max_steps"} <= set(decisive)
    assert not {"logs", "output_dir", "resume"} & set(decisive)
