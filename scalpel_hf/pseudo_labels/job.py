"""Labels large data sets: shard by shard, by several processes, resumable after a stop."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import datasets

from scalpel_hf.data.image_cells import stored_cells, undecoded
from scalpel_hf.data.label_sources import BY_PEOPLE
from scalpel_hf.data.pseudo_columns import PSEUDO_FEATURES
from scalpel_hf.data.stored import split_name
from scalpel_hf.utils.files import DiskFullError, remove_leftovers, whole_folder, work_folder, write_json
from scalpel_hf.utils.reading import read_json

from .calibration import Calibration, fit_calibration, match_prevalence
from .labelling import PREDICTION_FEATURES, check_columns, decide_rows, key_of, predict_rows, provenance_of
from .output import KEY_FILE, REVIEW_FOLDER, Labelled, column_pairs, load_output, summarize, write_arrow, write_parquet
from .rules import Rules, rules_of
from .shards import Shard, finished_shards, record_shards, shards_of, stream_features

REMEDY = "train it on more labelled frames that have a target, or for more steps"


class NothingFoundError(ValueError):
    """No frame gets a pseudo label. The message says why, and what to do."""


@dataclass
class LabellingJob:
    """
    Labels one data set, in one process or several.

    Call `predict`, then `finalize`. `predict` writes the teacher's predictions, one file for each shard, to the folder
    `out + ".partial"`. `finalize` needs all of them; it turns predictions into labels and writes the result to `out`.

    A shard's file is named after the teacher, the threshold, the settings below from `shard_size` to `skip_broken`,
    whether scores are calibrated on the labelled rows, and the content of the shard's rows. So a run that was killed
    resumes after its last finished shard, a run with other rules reuses the predictions, and only rows that have
    changed are predicted again. The result is the same to the byte for any number of processes.

    Args:
        source: a `Dataset` with `name`, `image`, `label_source`: the result is then a folder for `load_from_disk`. Or
            an `IterableDataset` with `image`, of unknown length: the result is then parquet files for `load_dataset`.
            Rows of a stream that lack `name` are numbered, and those that lack `label_source` count as `none`.
        teacher, name, revision: see `add_pseudo_labels`.
        out: folder for the result.
        rules: which objects are accepted.
        calibration: gives objects their scores. `"labelled"` fits it to the rows that people labelled, which the
            teacher then predicts too; with `None` a score is the teacher's mean probability in the object.
        shard_size: rows in a shard. A stream's shard is held in memory.
        batch_size: frames in one call of the teacher.
        skip_broken: leave rows that can't be labelled as they are, instead of raising.
        allow_none: if no frame gets a label, write the result without labels instead of raising. `problem` in
            `summary.json` then says why.
        report: called with each line of progress.
        split: name of the result's split; by default that of the source.
    """

    source: Labelled
    teacher: Any
    out: Path
    rules: Rules = field(default_factory=Rules)
    name: str = ""
    revision: str | None = None
    calibration: Calibration | str | None = None
    shard_size: int = 64
    batch_size: int = 8
    skip_broken: bool = False
    allow_none: bool = False
    report: Callable[[str], None] = print
    split: str | None = None

    def __post_init__(self) -> None:
        self.out = Path(self.out)
        if isinstance(self.calibration, str) and self.calibration != "labelled":
            raise ValueError(f"`calibration` must be 'labelled', a Calibration or None, not {self.calibration!r}")
        if self.out.exists() and not (self.out / KEY_FILE).is_file():
            raise ValueError(f"{self.out} exists and holds no pseudo labels: choose another folder, or remove it")
        self.streamed = isinstance(self.source, datasets.IterableDataset)
        self.split = self.split or split_name(self.source)
        self.names: list[str] | None = None  # of the shards' files; known when all rows are read
        if isinstance(self.source, datasets.IterableDataset):
            self.features = stream_features(self.source)
        else:
            check_columns(self.source)
            self.features = self.source.features
        self.learn = self.calibration == "labelled"
        self.provenance = provenance_of(self.teacher, self.rules, name=self.name, revision=self.revision)
        teacher = [self.provenance["fingerprint"], self.provenance["version"]]
        predictions = [repr(self.features), *teacher, self.rules.threshold]
        self.predictions_key = key_of([*predictions, self.shard_size, self.batch_size, self.skip_broken, self.learn])
        self.key = key_of(
            [self.predictions_key, self.provenance, repr(self.rules), repr(self.calibration), self.allow_none]
        )
        self.partial = self.out.with_name(self.out.name + ".partial")
        self.work = self.partial / key_of([self.predictions_key, repr(PREDICTION_FEATURES)])

    def is_finished(self) -> bool:
        """Whether `out` holds the result of the same settings and rows. Reads the rows if the settings are the same."""
        if not (self.out / KEY_FILE).is_file():
            return False
        record = read_json(self.out / KEY_FILE)
        if record.get("key") != self.key:
            return False
        if self.names is None:
            self.names = [shard.path.stem for shard in self._shards()]
        return record.get("rows") == key_of(self.names)

    def predict(self, worker: int = 0, workers: int = 1) -> None:
        """
        Write the predictions that are missing of shards `worker`, `worker + workers`, `worker + 2 · workers`, …

        Raises:
            OSError: if a shard can't be written. Earlier shards are kept.
            ValueError: if a row can't be labelled, or the data set has no rows.
        """
        if self.is_finished():
            return
        self.work.mkdir(parents=True, exist_ok=True)
        shards = self._shards() if self.streamed else list(self._shards())
        to_do = None
        if isinstance(shards, list):
            to_do = sum(s.length for s in shards if s.index % workers == worker and not s.path.exists())
        progress, names = Progress(self.report, to_do), []
        for shard in shards:
            names.append(shard.path.stem)
            if shard.index % workers == worker and not shard.path.exists():
                self._predict_shard(shard.rows(), shard.path)
                progress.update(shard.index, shard.length)
        if not names:
            raise ValueError("the data set has no rows to label")
        self.names = names
        record_shards(self.work, names)

    def _shards(self) -> Iterator[Shard]:
        return shards_of(self.source, self.shard_size, features=self.features, folder=self.work)

    def _predict_shard(self, rows: datasets.Dataset, path: Path) -> None:
        def step(batch: dict[str, list]) -> dict[str, list]:
            files = stored_cells(batch, self.features)  # labels and images stay together if files change later
            predictions = predict_rows(
                {**batch, **files},
                self.teacher,
                self.rules.threshold,
                humans_too=self.learn,
                skip_broken=self.skip_broken,
            )
            return {**files, **predictions}

        features = datasets.Features({**self.features, **PREDICTION_FEATURES})
        self._map(rows, step, path=path, features=features, fingerprint=f"{self.predictions_key}-{path.stem}")

    def _map(
        self, rows: datasets.Dataset, step: Callable, path: Path, features: datasets.Features, fingerprint: str
    ) -> datasets.Dataset:
        """`Dataset.map` to a file, which is renamed to `path` when it is complete."""
        try:
            with work_folder(path) as work:  # `map` leaves a part of its file there when it fails
                undecoded(rows).map(
                    step,
                    batched=True,
                    batch_size=self.batch_size,
                    writer_batch_size=self.batch_size,
                    remove_columns=[name for name in rows.column_names if name not in features],
                    features=features,
                    new_fingerprint=fingerprint,
                    cache_file_name=str(work / path.name),
                    load_from_cache_file=False,
                )
                os.replace(work / path.name, path)
        except DiskFullError as error:
            raise DiskFullError(f"{error}, then run the same command again: finished shards are kept") from error
        return datasets.Dataset.from_file(str(path))

    def finalize(self, complete: Callable[[Path, Labelled], None] | None = None) -> Labelled:
        """
        Turn all predictions into labels, write these to `out` and return them.

        Args:
            complete: called with the folder and the labelled data set, to add further files to the folder. It is called
                before the folder is renamed to `out`, or with `out` itself if that is finished already.

        Raises `ValueError` if shards are missing, and `NothingFoundError` if no frame has an accepted object, unless
        `allow_none`.
        """
        if self.is_finished():
            self.report(f"{self.out} already has these pseudo labels")
            remove_leftovers(self.out)
            shutil.rmtree(self.partial, ignore_errors=True)
            if complete is not None:
                complete(self.out, load_output(self.out))
            return load_output(self.out)
        paths = finished_shards(self.work)
        try:
            self._write(paths, self._calibrate(paths), complete)
        except NothingFoundError as nothing:
            if not self.allow_none:
                raise
            self.report(f"no frame gets a pseudo label: {nothing}")
            self._write(paths, None, complete, problem=str(nothing))
        shutil.rmtree(self.partial)
        return load_output(self.out)

    def _write(
        self,
        paths: list[Path],
        calibration: Calibration | None,
        complete: Callable[[Path, Labelled], None] | None,
        problem: str = "",
    ) -> None:
        """Write labels made of all predictions to `out`; without calibration no labels, because of `problem`."""
        rows_key = key_of([path.stem for path in paths])
        features = datasets.Features({**self.features, **PSEUDO_FEATURES})
        step = partial(decide_rows, rules=self.rules, calibration=calibration, provenance=self.provenance)

        def decide(index: int, to: Path) -> datasets.Dataset:
            predictions = datasets.Dataset.from_file(str(paths[index]))
            return self._map(
                predictions, step, path=to, features=features, fingerprint=f"{self.key}-{paths[index].stem}"
            )

        with whole_folder(self.out, replace=True) as final:
            if self.streamed:
                write_parquet(decide, len(paths), folder=final, split=str(self.split))
            else:
                write_arrow(
                    decide, len(paths), folder=final, fingerprint=key_of([self.key, rows_key]), split=str(self.split)
                )
            (calibration or Calibration()).save(final / "calibration.json")
            summary = self._summary(load_output(final), paths, problem)
            write_json(final / "summary.json", summary)
            keys = {"key": self.key, "rows": rows_key}
            write_json(final / KEY_FILE, {**keys, "teacher": self.provenance, "rules": asdict(self.rules)})
            if complete is not None:
                complete(final, load_output(final))
            if (self.out / REVIEW_FOLDER).exists():  # people's decisions about the same frames stay valid
                shutil.copytree(self.out / REVIEW_FOLDER, final / REVIEW_FOLDER)

    def _calibrate(self, paths: list[Path]) -> Calibration:
        if not self.learn:
            return self.calibration if isinstance(self.calibration, Calibration) else Calibration()
        labelled = [candidates for source, candidates in self._candidates(paths) if source in BY_PEOPLE]
        if not labelled:
            raise ValueError("no frame has a person's label to calibrate scores on: label without calibration")
        if not any(any(candidates["true"]) for candidates in labelled):
            raise NothingFoundError(
                f"nothing that the teacher finds in the {len(labelled)} frames that people labelled is a target, so "
                "scores can't be calibrated: train the teacher for more steps or on more labels, or use its "
                "probabilities as scores (`scalpel-hf label --no-calibration`)"
            )
        others = (candidates for source, candidates in self._candidates(paths) if source not in BY_PEOPLE)
        return match_prevalence(fit_calibration(labelled), others)

    def _candidates(self, paths: list[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
        """`label_source` and candidates of each frame that was predicted."""
        pairs = (pair for path in paths for pair in column_pairs(path, "label_source", "candidates"))
        return ((source, candidates) for source, candidates in pairs if candidates is not None)

    def _summary(self, labelled: Labelled, paths: list[Path], problem: str) -> dict[str, Any]:
        summary = summarize(labelled)
        asked = summary["pseudo"] + summary["unsure"]
        if asked and not summary["objects"] and not problem:
            found = sum(sum(c["strong"]) for source, c in self._candidates(paths) if source not in BY_PEOPLE)
            if found:
                why = f"finds {found} objects, and the rules reject all of them ({self.rules}): {REMEDY}"
            else:
                why = f"finds nothing at threshold {self.rules.threshold:g}: {REMEDY}"
            raise NothingFoundError(f"all {asked} pseudo labels are empty: the teacher {why}")
        problems = (pair for path in paths for pair in column_pairs(path, "name", "problem"))
        skipped = {name: broken for name, broken in problems if broken is not None}
        return summary | {"skipped": skipped} | ({"problem": problem} if problem else {})


def label_in_shards(
    dataset: Labelled,
    teacher: Any,
    out: str | Path,
    threshold: float | None = None,
    name: str = "",
    **settings: Any,
) -> Labelled:
    """
    Label a data set shard by shard and keep the result at `out`: [`LabellingJob`] in one process.

    If `out` was made with the same settings it is loaded as it is; if with other settings, it is replaced.

    Args:
        dataset, teacher, threshold, name: see `add_pseudo_labels`.
        out: folder for the result.
        settings: further arguments of [`LabellingJob`], such as `rules`, `calibration`, `shard_size`.

    Raises `ValueError` if the data set has no rows, if no frame has an accepted object, or if `out` is a folder with
    other content, which is not touched.
    """
    rules = rules_of(settings.pop("rules", None), threshold)
    job = LabellingJob(dataset, teacher, Path(out), rules=rules, name=name, **settings)
    job.predict()
    return job.finalize()


@dataclass
class Progress:
    """Reports frames per second and, if the number of frames is known, the time that is left."""

    report: Callable[[str], None]
    total: int | None
    done: int = 0
    began: float = field(default_factory=time.monotonic)

    def update(self, shard: int, frames: int) -> None:
        self.done += frames
        rate = self.done / max(time.monotonic() - self.began, 1e-9)
        ahead = "" if self.total is None else f" of {self.total}, {(self.total - self.done) / rate:.0f} s to go"
        self.report(f"shard {shard}: {rate:.1f} images/s, {self.done}{ahead}")
