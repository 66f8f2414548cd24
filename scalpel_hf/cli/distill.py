"""Stage 1, with the flags of recipes/distill.py."""

from .launching import launch_or_rest


def main(argv: list[str] | None = None) -> None:
    rest = launch_or_rest("scalpel_hf.recipes.distill", argv)
    from scalpel_hf.recipes import distill

    distill.main(rest)
