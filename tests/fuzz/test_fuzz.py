"""
Every input ends in a right result or one clear line within ten seconds, and leaves nothing behind.

Seeded: a case is its target and its number, and `python -m tests.fuzz.test_fuzz TARGET NUMBER` shows one. The cases
run in a child process, which is killed where one hangs in native code.
"""

import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random

import datasets
import pytest

from scalpel_hf import formats
from scalpel_hf.cli import evaluate, export, label, plan, prepare
from scalpel_hf.utils.error_lines import OF_USERS, one_line
from tests.fuzz.children import outcomes
from tests.fuzz.mutations import copy_of, mutate
from tests.fuzz.targets import HOSTILE_NAMES, OUT, TARGETS, hostile_rows

SECONDS, BUSY_MACHINE = 10, 6  # of computing; waiting may take so many times longer
STUCK = 2 * SECONDS * BUSY_MACHINE  # seconds after which a case's process is killed
FEW, MANY = 6, 250  # cases a target in the default run, and of `-m slow`


class Hang(BaseException):
    """Nothing that is tested catches it."""


@contextmanager
def limited() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang

    timers = {
        signal.SIGPROF: (signal.ITIMER_PROF, SECONDS),
        signal.SIGALRM: (signal.ITIMER_REAL, SECONDS * BUSY_MACHINE),
    }
    handlers = {number: signal.signal(number, stop) for number in timers}
    before = {timer: signal.setitimer(timer, seconds)[0] for timer, seconds in timers.values()}
    try:
        yield
    finally:
        for timer, seconds in before.items():  # of pytest-timeout
            signal.setitimer(timer, seconds)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def outcome(use: Callable[[], object]) -> str:
    """The line that it ends with, empty where all is well; an assertion where it is none that a person understands."""
    try:
        with limited(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            use()
    except Hang:
        raise AssertionError("it hangs") from None
    except SystemExit as end:
        return str(end.code)
    except OF_USERS as error:
        line = one_line(error)
        assert "--debug" not in line, f"it says nothing: {line}"
        return line
    return ""


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def run_case(name: str, number: int, right: Path, work: Path) -> str:
    """Make a target's files wrong in the way of that number, and use them; says what was done and what came of it."""
    target = TARGETS[name]
    folder = copy_of(right, work / f"case-{number}")
    what = mutate(folder, Random(f"{name} {number}"))
    before = tree(folder)
    began = time.monotonic()
    try:
        line = outcome(lambda: target.use(folder))
    except Exception as error:
        raise AssertionError(f"{name} {number}: {what}: {type(error).__name__}: {error}") from error
    left = {path for path in tree(folder) - before if line or path.split("/")[0] != OUT}
    assert not left, f"{name} {number}: {what}: it leaves {sorted(left)}, and says {line!r}"
    named = [path.name for path in right.rglob("*")] + [path.stem for path in right.rglob("*")] + [str(folder)]
    if line and line != "2":
        assert any(word in line for word in (*named, *target.words)), f"{name} {number}: {what}: names nothing: {line}"
    return f"{name} {number} ({time.monotonic() - began:.1f} s): {what}: {line or 'accepted'}"


@pytest.fixture(autouse=True)
def own_datasets_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf-cache"))


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A target's right files, and that they are accepted."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("right") / "files"
            made[name].mkdir()
            TARGETS[name].make(made[name])
            used = copy_of(made[name], made[name].with_name("used"))
            TARGETS[name].use(used)
        return made[name]

    return make


def run_in_child(name: str, right: Path, work: Path, number: int) -> str:
    datasets.config.HF_DATASETS_CACHE = work / "hf-cache"
    return run_case(name, number, right, work)


def check_cases(name: str, numbers: range, right: Path, work: Path) -> None:
    wrong = []
    for outcome in outcomes(partial(run_in_child, name, right, work), numbers, STUCK):
        print(outcome.line.encode("utf-8", "backslashreplace").decode(), flush=True)  # a name may hold half a character
        if outcome.is_wrong:
            wrong.append(f"{name} {outcome.number}: {outcome.line.removeprefix(f'{name} {outcome.number}: ')}")
    assert not wrong, f"{len(wrong)} of {len(numbers)}:\n" + "\n".join(wrong)


@pytest.mark.parametrize("name", TARGETS)
def test_a_few_wrong_files(name: str, right: Callable[[str], Path], tmp_path: Path) -> None:
    check_cases(name, range(FEW), right(name), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", TARGETS)
def test_many_wrong_files(name: str, right: Callable[[str], Path], tmp_path: Path) -> None:
    check_cases(name, range(FEW, MANY), right(name), tmp_path)


NUMBERS = ["nan", "inf", "-inf", "-1", "0", "1e300", "99999999999999999999", "1.5", "one", "", "0x10", "010"]
FLAGS = {
    "prepare": (prepare.main, ["--synthetic", "4", "--out", "out"], ["--synthetic", "--budget"]),
    "pseudo_label": (
        label.main,
        ["--dataset", "d", "--teacher", "t", "--out", "out"],
        [
            "--threshold",
            "--scales",
            "--tile-size",
            "--batch-size",
            "--min-score",
            "--max-area",
            "--shard",
            "--feature-cache-gb",
        ],
    ),
    "export_onnx": (export.main, ["m", "--out", "out"], ["--threshold", "--calibration-frames"]),
    "evaluate_model": (evaluate.main, ["m"], ["--threshold"]),
    "plan_labels": (plan.main, ["--dataset", "d", "--out", "out"], ["--budget", "--image-size"]),
}


@pytest.mark.parametrize("program", FLAGS)
def test_flags(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Numbers that make no sense are refused, each by the flag's name, before anything is read."""
    main, right, flags = FLAGS[program]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for flag in flags:
        for number in NUMBERS:
            if (flag, number) in SENSIBLE:
                continue
            line = outcome(lambda argv=[*right, f"{flag}={number}"]: main(argv))  # type: ignore[misc]
            assert line and (line != "2" or flag in capsys.readouterr().err), f"{program} {flag}={number}: {line!r}"
            assert line == "2" or number in line, f"{program} {flag}={number}: {line!r}"
            assert not list(tmp_path.iterdir())


SENSIBLE = {
    *((flag, "0") for flag in ("--feature-cache-gb", "--min-score")),
    *((flag, "1.5") for flag in ("--feature-cache-gb", "--scales")),
    *((flag, "010") for flag in ("--feature-cache-gb", "--synthetic", "--batch-size", "--max-area", "--budget")),
    ("--calibration-frames", "010"),
}


@pytest.mark.parametrize("form", ["coco", "imagefolder", "label_studio", "masks", "parquet", "voc", "yolo_detection"])
def test_hostile_names_stay_within_their_folder(form: str, tmp_path: Path) -> None:
    write = getattr(formats, f"write_{form}")
    for number, name in enumerate(HOSTILE_NAMES):
        case = tmp_path / str(number)
        line = outcome(lambda name=name, case=case: write(hostile_rows([name, "right"]), case / "x" / OUT))  # type: ignore[misc]
        assert not line or name[:40] in line or repr(name)[1:-1] in line, f"{name!r:.40}: {line}"
        outside = {path for path in tree(case) if path.split("/")[:2] != ["x", OUT][: path.count("/") + 1]}
        assert outside <= {"x"} and (not line or not (case / "x" / OUT).exists()), f"{name!r}: {sorted(outside)}"
    assert not Path("/absolute").exists() and not (tmp_path / "escaped").exists()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        files = Path(made, "files")
        files.mkdir()
        TARGETS[sys.argv[1]].make(files)
        for case in map(int, sys.argv[2:]):
            print(run_case(sys.argv[1], case, files, Path(made)))
