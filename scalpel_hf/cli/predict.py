"""The runtime's program, which also runs by itself where neither torch nor transformers is installed."""

from scalpel_hf.runtime import __main__ as program


def main(argv: list[str] | None = None) -> None:
    program.main(argv, name="scalpel-hf predict")
