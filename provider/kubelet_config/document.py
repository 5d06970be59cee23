"""YAML or JSON text as the JSON document that the kubelet's decoder sees.

The kubelet takes for JSON what begins with a brace. All else is YAML 1.1 as Go's yaml.v2 reads
it, of which the first document alone counts.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml


class Object(list[tuple[str, Any]]):
    """A JSON object as its pairs, in their order, so that a key that stands twice is seen."""


def read(text: str) -> tuple[Any, bool]:
    """The document, and whether more YAML documents follow it.

    A document is None, bool, str, int or float, list, or Object. Raises ValueError, worded as
    the kubelet would, when the text is neither YAML nor JSON.
    """
    try:
        if text.lstrip()[:1] == "{":
            return _read_json(text), False
        return _read_yaml(text)
    except RecursionError:
        raise ValueError("yaml: exceeded max depth") from None


def _read_yaml(text: str) -> tuple[Any, bool]:
    try:
        loader = _Loader(text)
        node = loader.get_node() if loader.check_node() else None
        document = None if node is None else _plain(node)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"yaml: {line}{error.problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"yaml: {str(error).splitlines()[0]}") from None
    try:
        return document, loader.check_node()
    except yaml.YAMLError:  # the kubelet never gets to what is wrong there
        return document, True


def json_kind(value: Any) -> str:
    """What Go's JSON decoder calls a value that is not null."""
    match value:
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "string"
        case Object():
            return "object"
    return "array"


class _Loader(yaml.BaseLoader):
    """PyYAML with the plain scalars of Go's yaml.v2.

    Its YAML 1.1 is not PyYAML's: y and n are booleans, 1:20 is no number, a date is a string.
    """


for _tag, _pattern, _first in (
    ("null", "~|null|Null|NULL|", [*"~nN", ""]),
    (
        "bool",
        "y|Y|yes|Yes|YES|true|True|TRUE|on|On|ON|n|N|no|No|NO|false|False|FALSE|off|Off|OFF",
        [*"yYtToOnNfF"],
    ),
    (
        "float",
        r"[-+]?(0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+"
        r"|([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?"
        r"|\.(inf|Inf|INF))|\.(nan|NaN|NAN)",
        [*"+-.0123456789"],
    ),
    ("merge", "<<", ["<"]),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^({_pattern})$"), _first
    )


def _plain(node: yaml.Node) -> Any:
    """A YAML node as JSON has it. Numbers become 0: no field of the config takes one."""
    if isinstance(node, yaml.MappingNode):
        return Object(_pairs(node))
    if isinstance(node, yaml.SequenceNode):
        return [_plain(each) for each in node.value]
    match node.tag.removeprefix("tag:yaml.org,2002:"):
        case "null":
            return None
        case "bool":
            return node.value.lower() in {"y", "yes", "true", "on"}
        case "int" | "float":
            return 0
    return node.value


def _pairs(node: yaml.MappingNode) -> Iterator[tuple[str, Any]]:
    for key, value in node.value:
        if key.tag == "tag:yaml.org,2002:merge":
            merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for each in merged:
                if not isinstance(each, yaml.MappingNode):
                    raise ValueError(
                        "yaml: map merge requires map or sequence of maps as the value"
                    )
                yield from _pairs(each)
        elif isinstance(key, yaml.ScalarNode):
            yield key.value, _plain(value)
        else:
            raise ValueError(f"yaml: invalid map key: line {key.start_mark.line + 1}")


def _read_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=Object)
    except ValueError as error:
        raise ValueError(f"couldn't get version/kind; json parse error: {error}") from None
