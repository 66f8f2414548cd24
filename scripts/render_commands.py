"""Write docs/reference/commands.md from the programs' and recipes' own text.

    python scripts/render_commands.py

Nothing is imported: programs are read, not run. A test fails when the page isn't what this writes.
"""

import ast
from collections.abc import Iterable
from pathlib import Path

from scalpel_hf.cli.main import VERBS
from scalpel_hf.cli.program import run_program
from scalpel_hf.utils.files import read_text, write_text

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "commands.md"
VERB_TEXTS = {  # where a verb's help is, if not in the file of its name
    "distill": "recipes/distill.py",
    "transfer": "recipes/transfer.py",
    "predict": "scalpel_hf/runtime/__main__.py",
}
FOR_DEVELOPERS = ("scripts/*.py", "scripts/*/*.py")
FIELDS = {
    "Both trainings": ("scalpel_hf/training/arguments.py", "LoopArguments"),
    "scalpel-hf distill": ("recipes/distill.py", "DistillArguments"),
    "scalpel-hf transfer": ("recipes/transfer.py", "TransferArguments"),
}
HEAD = """# Commands

Written by `python scripts/render_commands.py`. `scalpel-hf VERB --help` says more of each verb, and `--debug` shows
where an error arose. `python -m scalpel_hf` is the same command.
"""
YAML_HEAD = """## Fields of the recipes' YAML files

Each is a flag of the same name too, with hyphens: `base_model` is `--base-model`. `--config` takes a file, or one that
comes with the package by its name, such as `nuaa_sirst/distill_10pct`.
"""


def page(root: Path = ROOT) -> str:
    parts = [HEAD]
    for verb, line in VERBS.items():
        file = VERB_TEXTS.get(verb, f"scalpel_hf/cli/{verb}.py")
        parts.append(f"## scalpel-hf {verb}\n\n{line}\n\n{examples(root / file)}\n")
    parts.append(YAML_HEAD)
    for title, (module, name) in FIELDS.items():
        rows = [f"| `{field}` | `{default}` | {text} |" for field, default, text in fields(root / module, name)]
        parts.append("\n".join([f"### {title}\n", "| field | default | |", "|---|---|---|", *rows, ""]))
    parts.append("## For developers of this project\n")
    for path in (path for pattern in FOR_DEVELOPERS for path in sorted(root.glob(pattern))):
        tree = ast.parse(read_text(path))
        if "__main__" in read_text(path) and (text := ast.get_docstring(tree, clean=False)):
            summary = "\n\n".join(text.strip("\n").split("\n\n")[:2])  # what it is for, and how it is called
            parts.append(f"### {path.relative_to(root).as_posix()}\n\n{summary.rstrip()}\n")
    return "\n".join(parts)


def examples(path: Path) -> str:
    """The indented commands of a module's docstring."""
    text = ast.get_docstring(ast.parse(read_text(path)), clean=False) or ""
    (block,) = [part for part in text.split("\n\n") if part.startswith("    scalpel-hf ")]
    return block


def fields(path: Path, name: str) -> Iterable[tuple[str, str, str]]:
    """Name, default and help of the fields made by `option` of a dataclass, but for those left out of help."""
    (found,) = [
        node for node in ast.parse(read_text(path)).body if isinstance(node, ast.ClassDef) and node.name == name
    ]
    for node in found.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call) and len(node.value.args) == 2:
            default, text = node.value.args
            if any(keyword.arg == "in_help" for keyword in node.value.keywords):
                continue
            yield ast.unparse(node.target), ast.unparse(default), _words(text)


def _words(text: ast.expr) -> str:
    """A text as it is written; what an f-string computes stays its own code."""
    parts = text.values if isinstance(text, ast.JoinedStr) else [text]
    return "".join(
        f"`{ast.unparse(part.value)}`" if isinstance(part, ast.FormattedValue) else str(ast.literal_eval(part))
        for part in parts
    )


if __name__ == "__main__":
    run_program(lambda: write_text(PAGE, page()))
