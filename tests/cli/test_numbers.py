import argparse
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from scalpel_hf.cli.numbers import PROBABILITY, SCALE, SEED, THREADS, between


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (THREADS, "1", 1),
        (THREADS, " 1024", 1024),
        (PROBABILITY, "5e-1", 0.5),
        (SCALE, "8", 8.0),
        (SEED, "4294967295", 2**32 - 1),
    ],
)
def test_what_is_within_its_bounds(read: Callable[[str], float], text: str, value: float) -> None:
    assert read(text) == value and type(read(text)) is type(value)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "", "one", "0", "1", "7", "-1", "1e300", "0x1"])
def test_what_is_no_threshold(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"must be a number from 1e-06 to 0.999999, got '" + text):
        PROBABILITY(text)


@pytest.mark.parametrize("text", ["0", "100000", "-1", "1.5", "1e3", "9" * 5000])
def test_what_is_no_number_of_threads(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be a whole number from 1 to 1024"):
        THREADS(text)


def test_a_program_names_the_flag(capsys: pytest.CaptureFixture) -> None:
    parser = argparse.ArgumentParser(prog="program")
    parser.add_argument("--scales", nargs="+", type=between(float, 0.1, 8.0))
    with pytest.raises(SystemExit):
        parser.parse_args(["--scales", "1", "500"])
    assert "argument --scales: must be a number from 0.1 to 8, got '500'" in capsys.readouterr().err


def test_every_number_that_a_program_takes_has_bounds() -> None:
    """Either by `between`, or as the runtime's and the recipes' by what they are given to."""
    root = Path(__file__).parents[2]
    files = [path for folder in ("scripts", "scalpel_hf") for path in (root / folder).rglob("*.py")]
    bare = {path.relative_to(root).as_posix() for path in files if re.search(r"\btype=(int|float)\b", path.read_text())}
    assert bare <= {"scalpel_hf/runtime/__main__.py"}
