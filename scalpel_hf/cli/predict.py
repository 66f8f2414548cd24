"""The verb `predict`. The program is the runtime's, which also runs without torch and transformers."""

from scalpel_hf.runtime import __main__ as program


def main(argv: list[str] | None = None) -> None:
    program.main(argv, name="scalpel-hf predict")
