"""Write docs/reference/commands.md from the programs' and recipes' own text.

    python scripts/render_commands.py

A test fails when the page isn't what this writes.
"""

import ast
import dataclasses
import importlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from scalpel_hf.cli.main import VERBS
from scalpel_hf.cli.program import run_program
from scalpel_hf.utils.files import write_text
from scalpel_hf.utils.reading import read_text

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "commands.md"
VERB_TEXTS = {  # where a verb's help is, if not in the file of its name
    "distill": "recipes/distill.py",
    "transfer": "recipes/transfer.py",
    "predict": "scalpel_hf/runtime/__main__.py",
}
SHOWN = 1  # commands of a verb
FIELDS = {
    "Both trainings": ("scalpel_hf.training.recipe_arguments", "LoopArguments"),
    "Fields of distill": ("scalpel_hf.training.recipe_arguments", "DistillArguments"),
    "Fields of transfer": ("scalpel_hf.training.recipe_arguments", "TransferArguments"),
}
HEAD = """# Commands

Written by `python scripts/render_commands.py`. `scalpel-hf VERB --help` shows all flags and more examples; `--debug`
shows where an error arose.
"""
YAML_HEAD = """## Fields of the recipes' YAML files

Each is a flag too, with hyphens: `base_model` is `--base-model`. `--config` takes a file, or the name of one in the
package, such as `nuaa_sirst/distill_10pct`.
"""


def page(root: Path = ROOT) -> str:
    parts = [HEAD]
    for verb, line in VERBS.items():
        file = VERB_TEXTS.get(verb, f"scalpel_hf/cli/{verb}.py")
        parts.append(f"## scalpel-hf {verb}\n\n{line}\n\n{examples(root / file)}\n")
    parts.append(YAML_HEAD)
    for title, (module, name) in FIELDS.items():
        rows = [f"| `{field}` | `{default}` | {text} |" for field, default, text in fields(module, name)]
        parts.append("\n".join([f"### {title}\n", "| field | default | |", "|---|---|---|", *rows, ""]))
    return "\n".join(parts)


def examples(path: Path) -> str:
    """The first of the indented commands in a module's docstring; `--help` shows all."""
    text = ast.get_docstring(ast.parse(read_text(path)), clean=False) or ""
    (block,) = [part for part in text.split("\n\n") if part.startswith("    scalpel-hf ")]
    commands = re.split(r"\n(?=    \S)", block)
    return "\n".join(commands[:SHOWN])


def fields(module: str, name: str) -> Iterable[tuple[str, str, str]]:
    """Name, default and help of a dataclass's own fields, without those that are left out of `--help`."""
    found = getattr(importlib.import_module(module), name)
    for field in dataclasses.fields(found):
        if field.name in found.__annotations__ and field.metadata["in_help"]:
            yield field.name, json.dumps(getattr(found(), field.name)), field.metadata["help"]


if __name__ == "__main__":
    run_program(lambda: write_text(PAGE, page()))
