"""The command `scalpel-hf`: the list of its verbs. A verb's module is imported only when the verb is run."""

import importlib
import os
import sys
from collections.abc import Callable

import typer

from scalpel_hf.utils.flags import with_hyphens
from scalpel_hf.version import __version__

from .program import run_program

NAME = "scalpel-hf"
VERBS = {
    "run": "The whole job on a folder of frames, a few of them labelled.",
    "prepare": "Turn frames and labels into the data set that later steps read.",
    "distill": "Stage 1: train a teacher on the few labels.",
    "label": "Have the teacher label the frames that no person has labelled.",
    "transfer": "Stage 2: train a small student on human and pseudo labels.",
    "evaluate": "Measure a teacher, a student, an exported file or pseudo labels.",
    "predict": "Find targets in images, recordings or a camera's stream.",
    "export": "Write a student or a teacher as ONNX, and check it.",
    "convert": "Labels from and to other programs; public SAM weights.",
    "push": "Push a model or a data set to the Hub, with a card.",
    "plan": "Say which frames to label next.",
    "review": "Look through pseudo labels in the browser.",
    "app": "Look at a model's answers in the browser.",
    "demo": "The whole job on synthetic frames, without data or network.",
    "env": "Versions, device and what is missing, for bug reports.",
}
RESUMES = {"run", "distill", "label", "transfer", "demo"}  # verbs that resume when they are run again
HELP = """From a few labelled infrared frames to a small, fast target detector."""
EPILOG = """Each verb has examples: scalpel-hf VERB --help. With --debug an error shows where it arose.

Exit codes: 0 done, 1 an error (the last line says which, and what to do; with
--num-processes a line above it), 2 a wrong command line,
3 done but for frames that can't be read, 130 interrupted, 143 terminated.

Documentation: docs/index.md of the project."""


def main() -> None:
    """Run `scalpel-hf` with `sys.argv`."""
    # By default, torch's threads spin while they wait: where other programs use the cores, steps are 100 times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    sys.argv = [NAME, *(with_hyphens(argument) for argument in sys.argv[1:])]  # records of runs read it, too
    application()(prog_name=NAME)


def application() -> typer.Typer:
    app = typer.Typer(
        help=HELP,
        epilog=EPILOG,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    )
    app.callback()(_group)
    for verb, help_line in VERBS.items():
        passed_on = {"ignore_unknown_options": True, "allow_extra_args": True}
        app.command(verb, help=help_line, add_help_option=False, context_settings=passed_on)(_runner(verb))
    return app


def _show_version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


def _group(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    pass


def _runner(verb: str) -> Callable[[], None]:
    """A function that runs a verb. The verb's own `main` parses the arguments, `--help` included."""

    def run() -> None:
        run_program(lambda: importlib.import_module(f"scalpel_hf.cli.{verb}").main(sys.argv[2:]), verb in RESUMES)

    return run
