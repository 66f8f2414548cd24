"""Write docs/reference/commands.md from the programs' and recipes' own text.

    python scripts/render_commands.py

Nothing is imported: programs are read, not run. A test fails when the page isn't what this writes.
"""

import ast
from collections.abc import Iterable
from pathlib import Path

from scalpel_hf.cli.program import run_program
from scalpel_hf.utils.files import read_text, write_text

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "commands.md"
PROGRAMS = ("scripts/*.py", "scalpel_hf/runtime/__main__.py", "scalpel_hf/app/review.py")
FIELDS = {
    "Both trainings": ("scalpel_hf/training/arguments.py", "LoopArguments"),
    "recipes/distill.py": ("recipes/distill.py", "DistillArguments"),
    "recipes/transfer.py": ("recipes/transfer.py", "TransferArguments"),
}
HEAD = """# Commands

Written by `python scripts/render_commands.py`. `--help` says more of each, and `--debug` shows where an error arose.

## Fields of the recipes' YAML files

Each is a flag of the same name too.
"""


def page(root: Path = ROOT) -> str:
    parts = [HEAD]
    for title, (module, name) in FIELDS.items():
        rows = [f"| `{field}` | `{default}` | {text} |" for field, default, text in fields(root / module, name)]
        parts.append("\n".join([f"### {title}\n", "| field | default | |", "|---|---|---|", *rows, ""]))
    parts.append("## Programs\n")
    for path in (path for pattern in PROGRAMS for path in sorted(root.glob(pattern))):
        tree = ast.parse(read_text(path))
        if "__main__" in read_text(path) and (text := ast.get_docstring(tree, clean=False)):
            summary = "\n\n".join(text.strip("\n").split("\n\n")[:2])  # what it is for, and how it is called
            parts.append(f"### {path.relative_to(root).as_posix()}\n\n{summary.rstrip()}\n")
    return "\n".join(parts)


def fields(path: Path, name: str) -> Iterable[tuple[str, str, str]]:
    """Name, default and help of a dataclass's fields made by `option`, as they are written."""
    (found,) = [
        node for node in ast.parse(read_text(path)).body if isinstance(node, ast.ClassDef) and node.name == name
    ]
    for node in found.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call) and len(node.value.args) == 2:
            default, text = node.value.args
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
