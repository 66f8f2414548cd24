"""A YAML loader without surprises: what looks like a number is one, and keys can't repeat."""

import re
from typing import Any

import yaml

from .reading import first_double


class PlainLoader(yaml.SafeLoader):
    """
    Loads YAML with the numbers of JSON's kind, such as `1e-3`; `010`, `1:30` and dates are text.

    Raises `YAMLError` for aliases (`*name`) and for keys that occur twice in a mapping.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"aliases are not read:{self.peek_event().start_mark}")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        twice = first_double([key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
        if twice is not None:
            raise yaml.YAMLError(f"{twice!r} is there twice:{node.start_mark}")
        return super().construct_mapping(node, deep)


PLAIN = {
    "int": r"[-+]?(?:0|[1-9][0-9]*)",
    "float": r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?"
    r"|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)",
}
PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag.split(":")[-1] not in (*PLAIN, "timestamp")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _name, _pattern in PLAIN.items():
    PlainLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_name}", re.compile(rf"(?:{_pattern})$"), list("-+.0123456789")
    )
