"""The spelling of flags on the command line."""

import re


def with_hyphens(argument: str) -> str:
    """
    A flag with hyphens in place of the underscores that YAML files have; its value stays as it is.

    Examples:
        >>> with_hyphens("--base_model=my_model")
        '--base-model=my_model'
    """
    if not re.match(r"--[a-zA-Z]", argument):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value
