"""Stage 2, with the flags of recipes/transfer.py."""

from .launching import launch_or_rest


def main(argv: list[str] | None = None) -> None:
    rest = launch_or_rest("scalpel_hf.recipes.transfer", argv)
    from scalpel_hf.recipes import transfer

    transfer.main(rest)
