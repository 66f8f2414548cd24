"""Fill the marked tables of the README and docs/ from the JSON files under results/.

    python scripts/render_results.py

A table stands between two comments, the first of which names a folder of results:

    <!-- table: results/teacher/nuaa; teacher - student -->
    <!-- end of table -->

It has a row for each model, with the mean of its seeds and the minutes that the fastest took to train, as others may
have shared the machine, and one for each comparison asked for, a difference or, with ` / `, a ratio, with what 95 % of
draws of frames and seeds make of it. `results/teacher`, a folder of data sets, gives the rows of each. A folder of
scripts/experiments/measure_proposals.py is a table of its own kind. A file is called `ARM-SEED.json`, with `arm`,
`dataset`, `seed`, `seconds`, `commit`, `machine`, `metrics`, and `counts` on every frame or, by boxes, on every
recording.
With `; only` before them, the rows of single models are left out.
With `--check` nothing is written, and a table that isn't what the files say is an error.
"""

import argparse
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np

from scalpel_hf.cli.program import run_program
from scalpel_hf.evaluation.comparison import DRAWS, SIZES, bootstrap_differences, bootstrap_ratios, iou_by_size
from scalpel_hf.evaluation.evaluator import mean_and_deviation
from scalpel_hf.evaluation.run_files import (
    Kind,
    Runs,
    kind_of_run,
    metrics_of_seeds,
    numbers_of_units,
    paired_counts,
    read_runs,
    stacked_counts,
)
from scalpel_hf.utils.files import write_text
from scalpel_hf.utils.markdown import escape
from scalpel_hf.utils.reading import read_json, read_text

ROOT = Path(__file__).parents[1]
TABLE = re.compile(r"^<!-- table: (.*?) -->\n(.*?)^<!-- end of table -->$", re.DOTALL | re.MULTILINE)
PAIR = re.compile(r"(\S+) ([-/]) (\S+)")
ONLY = "only"
NOTHING = "*Not measured yet.*"


class Comparison(NamedTuple):
    """Two arms, `-` or `/` between them, the seeds that both have, and the counts of each to compare."""

    one: str
    sign: str
    other: str
    seeds: list[int]
    first: np.ndarray
    second: np.ndarray


def documents(root: Path = ROOT) -> list[Path]:
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def render(text: str, root: Path = ROOT) -> str:
    """The document with each marked table as the files under `root` have it."""
    if len(re.findall("^<!-- table:", text, re.MULTILINE)) != len(TABLE.findall(text)):
        raise ValueError("a table has no line `<!-- end of table -->`")
    return TABLE.sub(lambda found: f"<!-- table: {found[1]} -->\n{_table(found[1], root)}\n<!-- end of table -->", text)


def _table(asked: str, root: Path) -> str:
    name, *asked_rows = (part.strip() for part in asked.split(";"))
    only_comparisons = ONLY in asked_rows
    pairs = [PAIR.fullmatch(pair) for pair in asked_rows if pair != ONLY]
    if not all(pairs):
        raise ValueError(f"{asked!r}: a comparison is two models with ` - ` or ` / ` between them")
    folder = root / name
    folders = [folder] if any(folder.glob("*.json")) else sorted(path for path in folder.glob("*/") if path.is_dir())
    if not folders:
        return NOTHING
    if any("way" in read_json(path) for path in folders[0].glob("*.json")):
        return _proposals(folders[0])
    runs = [read_runs(folder) for folder in folders]
    kind = kind_of_run(next(iter(runs[0].values()))[0])
    several = folders != [folder]  # a folder of data sets, of which there may be one so far
    titles = [title for title, _ in (*kind.titles.values(), *kind.others.values())]
    rows, comparisons = [["data", "", "seeds", *titles, "minutes"]], []
    for folder, arms in zip(folders, runs, strict=True):
        compared = [_compared(arms, kind, pair=pair, folder=folder) for pair in pairs if pair]
        of_folder = [] if only_comparisons else [*_rows_of_arms(arms, kind)]
        rows += [[escape(folder.name), *row] for row in (*of_folder, *(_row_of_comparison(c, kind) for c in compared))]
        comparisons += compared
    rows = rows if several else [row[1:] for row in rows]
    if only_comparisons:  # which have no time of their own
        rows = [row[:-1] for row in rows]
        named = {arm for comparison in comparisons for arm in (comparison.one, comparison.other)}
        runs = [{arm: seeds for arm, seeds in arms.items() if arm in named} for arms in runs]
    lines = [_row(rows[0]), _row(["---"] * len(rows[0])), *map(_row, rows[1:])]
    of_data = {folder.name if several else "": arms for folder, arms in zip(folders, runs, strict=True)}
    return "\n".join([*lines, "", _note(kind, of_data, arms=not only_comparisons, comparisons=comparisons)])


def _proposals(folder: Path) -> str:
    """Mean IoU of what boxes and points propose, a row for each kind of label and way, a column for each size."""
    files = [read_json(path) for path in sorted(folder.glob("*.json"))]
    sizes = ["all", *(f"{low + 1}-{high} px" for low, high in pairwise((0, *SIZES))), f"over {SIZES[-1]} px", "several"]
    lines = [_row(["", "", *sizes]), _row(["---"] * (2 + len(sizes)))]
    for file in files:
        figures = iou_by_size(np.array(file["objects"], dtype=float))
        cells = [f"{mean:.2f} ({low:.2f}, {high:.2f})" if n else "–" for n, mean, low, high in figures]
        lines.append(_row([f"{escape(file['labels'])} ({figures[0][0]})", escape(file["way"]), *cells]))
    note = "Mean IoU, in brackets what 95 % of draws give; by the target's pixels, and of boxes around several."
    return "\n".join([*lines, "", note, _measured(files)])


def _rows_of_arms(arms: Runs, kind: Kind) -> Iterable[list[str]]:
    for arm, runs in arms.items():
        values = dict(zip(kind.titles, metrics_of_seeds(kind, stacked_counts(kind, runs)).T, strict=True))
        values |= {name: [run["metrics"].get(name) for run in runs] for name in kind.others}
        units = [unit for _, unit in (*kind.titles.values(), *kind.others.values())]
        cells = [
            "" if None in [*column] else mean_and_deviation([unit * float(value) for value in column])
            for unit, column in zip(units, values.values(), strict=True)
        ]
        seeds = ", ".join(str(run["seed"]) for run in runs)
        yield [escape(arm), seeds, *cells, f"{min(run['seconds'] for run in runs) / 60:.1f}"]


def _compared(arms: Runs, kind: Kind, pair: re.Match[str], folder: Path) -> Comparison:
    one, sign, other = pair.groups()
    if unknown := {one, other} - set(arms):
        raise ValueError(f"{folder}: has no run of {', '.join(sorted(unknown))}")
    both = sorted({run["seed"] for run in arms[one]} & {run["seed"] for run in arms[other]})
    return Comparison(one, sign, other, both, *paired_counts(kind, arms[one], arms[other]))


def _row_of_comparison(compared: Comparison, kind: Kind) -> list[str]:
    first, second = compared.first, compared.second
    means = metrics_of_seeds(kind, first).mean(0), metrics_of_seeds(kind, second).mean(0)
    if compared.sign == "-":
        word, form, units = "less", "+.1f", [unit for _, unit in kind.titles.values()]
        values, draws = np.subtract(*means), bootstrap_differences(first, second, kind.of_counts)
    else:
        word, form, units = "over", ".3f", [1.0] * len(kind.titles)
        values, draws = np.divide(*means), bootstrap_ratios(first, second, kind.of_counts)
    low, high = np.nanpercentile(draws, [2.5, 97.5], axis=0)
    cells = [
        f"{unit * value:{form}} ({unit * least:{form}}, {unit * most:{form}})"
        for unit, value, least, most in zip(units, values, low, high, strict=True)
    ]
    title = f"{escape(compared.one)} {word} {escape(compared.other)}"
    return [title, ", ".join(map(str, compared.seeds)), *cells, *[""] * (len(kind.others) + 1)]


def _note(kind: Kind, of_data: dict[str, Runs], arms: bool, comparisons: list[Comparison]) -> str:
    runs = [run for of_arms in of_data.values() for seeds in of_arms.values() for run in seeds]
    numbers = [
        numbers_of_units([run for seeds in of_arms.values() for run in seeds])[0] for of_arms in of_data.values()
    ]
    measured_on = [
        f"{number} {kind.units}{data and f' of {data}'}" for data, number in zip(of_data, numbers, strict=True)
    ]
    sentences = [f"On {', '.join(measured_on)}."]
    if arms and len({run["seed"] for run in runs}) > 1:
        sentences.append("± is the standard deviation over seeds.")
    if comparisons:
        drawn = {len(compared.first) > 1 for compared in comparisons}
        seeds = {(True,): " and seeds", (False,): "", (False, True): ", and of seeds where both have the same frames"}
        sentences.append(f"In brackets: 95 % of {DRAWS:,} draws of {kind.units}{seeds[tuple(sorted(drawn))]}.")
    return fill(" ".join(sentences), 110) + f"\n{_measured(runs)}"


def _measured(runs: list[dict[str, Any]]) -> str:
    made_at = {str(at) for run in runs for at in (run["commit"], *run.get("commits of members", ()))}
    commits = sorted(at[:12] + "+" * at.endswith("+") for at in made_at)  # +: with changes that aren't in it
    machines = sorted({_machine(run["machine"]) for run in runs})
    return fill(f"Measured at {', '.join(commits)}", 110) + f"\non {', '.join(machines)}."


def _machine(machine: dict[str, Any]) -> str:
    return escape(machine["accelerator"] or f"{machine['cpus']} CPU cores with {machine['cpu_capability']}")


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(argv: list[str] | None = None, root: Path = ROOT) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; an error if a table differs")
    args = parser.parse_args(argv)

    stale = []
    for path in documents(root):
        text = read_text(path)
        try:
            rendered = render(text, root)
        except ValueError as error:
            raise ValueError(f"{path.relative_to(root)}: {error}") from error
        if rendered != text:
            stale.append(str(path.relative_to(root)))
            if not args.check:
                write_text(path, rendered)
    if stale and args.check:
        raise ValueError(f"tables are not those of results/ in {', '.join(stale)}: run scripts/render_results.py")
    print("\n".join(stale) or "every table is up to date")


if __name__ == "__main__":
    run_program(main)
