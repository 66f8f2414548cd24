"""How flags are spelt on every command line."""

import re


def with_hyphens(argument: str) -> str:
    """A flag with hyphens: `--base_model`, as the YAML has it, is `--base-model`. Its value stays as it is."""
    if not re.match(r"--[a-zA-Z]", argument):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value
