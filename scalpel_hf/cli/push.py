"""Push a trained model, a base model, a data set, the metric or a demo page to the Hub, with a card.

Examples:

    scalpel-hf push models/mobile-sam org/mobile-sam
    scalpel-hf push runs/nuaa/teacher org/scalpel-sam --base-model-id org/mobile-sam
    scalpel-hf push runs/nuaa/one-teacher org/scalpel-sam-alone --base-model-id org/mobile-sam --standalone
    scalpel-hf push runs/nuaa/student org/scalpel-student
    scalpel-hf push data/nuaa-10pct org/nuaa-10pct --license mit
    scalpel-hf push metric org/irstd
    scalpel-hf push org/scalpel-student org/look --space --teacher org/scalpel-sam

A teacher's base must be on the Hub. `--standalone` pushes base and adapter as one model, which loads without
scalpel-hf; the teacher is one trained with `--committee 1`. `push metric` pushes the metric, for
`evaluate.load("org/irstd")`. `--space` pushes the page of `scalpel-hf app` as a Space, for models that are on the Hub
already.
"""

import argparse
import re
import tempfile
from pathlib import Path

from huggingface_hub import ModelCard

from scalpel_hf.cli.program import verb_parser
from scalpel_hf.data import LabelBudget, load_prepared
from scalpel_hf.hub.space import push_space
from scalpel_hf.hub.upload import push_dataset, push_folder, push_metric, push_run, save_standalone
from scalpel_hf.predictors.strict_loading import ADAPTER_CONFIG
from scalpel_hf.pseudo_labels.output import KEY_FILE as RUN_FILE

# What is pushed, and the flags that go with it.
FLAGS = {
    "a page": {"teacher"},
    "the metric": set(),
    "a data set": {"license"},
    "a base model": set(),
    "a teacher": {"base_model_id", "standalone", "base_model", "no_pictures"},
    "a student": {"no_pictures"},
}


def kind_of(args: argparse.Namespace) -> str:
    """What the arguments name, one of `FLAGS`, told by the folder's files. Raises `ValueError` for no folder."""
    folder = Path(args.folder)
    if args.space:
        return "a page"
    if args.folder == "metric":
        return "the metric"
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    if any(any(folder.glob(name)) for name in ("dataset_dict.json", "state.json", "data/*.parquet")):
        return "a data set"
    if not (folder / "metrics.json").exists() and (folder / "README.md").exists():
        return "a base model"
    return "a teacher" if (folder / ADAPTER_CONFIG).exists() else "a student"


def push(args: argparse.Namespace) -> str:
    """Push what the arguments name. Returns the commit's URL."""
    folder, private, kind = Path(args.folder), args.private or None, kind_of(args)
    for flag in sorted(set().union(*FLAGS.values()) - FLAGS[kind]):
        if getattr(args, flag):
            raise ValueError(f"--{flag.replace('_', '-')} is not for {kind}, which {args.folder} is: leave it out")
    if kind == "a page":
        return push_space(args.folder, args.repo, teacher=args.teacher, private=private)
    if kind == "the metric":
        return push_metric(args.repo, private)
    if kind == "a data set":
        budget = folder / "label_budget.json"
        dataset = load_prepared(folder)
        return push_dataset(
            dataset,
            args.repo,
            license=args.license or "other",
            private=private,
            budget=LabelBudget.load(budget) if budget.exists() else None,
            run=folder if (folder / RUN_FILE).exists() else None,
        )
    if args.standalone:
        with tempfile.TemporaryDirectory() as alone:
            save_standalone(folder, alone, args.base_model)
            return push_run(alone, args.repo, args.base_model_id, private=private, pictures=not args.no_pictures)
    if kind == "a base model":
        return push_folder(folder, args.repo, own_card(folder, args.repo), private=private)
    return push_run(folder, args.repo, args.base_model_id, private=private, pictures=not args.no_pictures)


def own_card(folder: Path, repo: str) -> ModelCard:
    """The card in a base model's folder, with the repository's name in its snippets in place of the folder's."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    return ModelCard(re.sub(r'from_pretrained\("[^"/]*"', f'from_pretrained("{repo}"', text))


def main(argv: list[str] | None = None) -> None:
    parser = verb_parser("push", __doc__)
    parser.add_argument("folder", help="what to push, or `metric`; with --space a model's id on the Hub")
    parser.add_argument("repo", help="repository, `org/name`; created if it doesn't exist")
    parser.add_argument("--base-model-id", help="Hub id of a teacher's base model, if it was loaded from a folder")
    parser.add_argument("--standalone", action="store_true", help="push a teacher as one model with its base")
    parser.add_argument(
        "--base-model", help="with --standalone, the base model, if not the one in the teacher's configuration"
    )
    parser.add_argument("--license", help="license of a data set's images and masks (default: other)")
    parser.add_argument("--no-pictures", action="store_true", help="show no test frames in a model's card")
    parser.add_argument("--space", action="store_true", help="push the page that shows a model, as a Space")
    parser.add_argument("--teacher", help="with --space, a second model's id, for the page's switch")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    args = parser.parse_args(argv)
    print(push(args))
