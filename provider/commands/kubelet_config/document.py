"""YAML or JSON text as the JSON document that the kubelet's decoder sees.

The kubelet takes for JSON what begins with a brace. All else is YAML 1.1 as Go's yaml.v2 reads
it, of which the first document alone counts.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml


class Object(list[tuple[str, Any]]):
    """A JSON object as its pairs, in their order, so that a key that stands twice is seen."""


class Document(NamedTuple):
    """What a text says: ``value`` is None, bool, str, int or float, list, or Object."""

    value: Any
    is_json: bool = False
    more_follow: bool = False  # further YAML documents


def read(text: str) -> Document:
    """The document. Raises ValueError, near the kubelet's words, for neither YAML nor JSON."""
    try:
        return _read_json(text) if text.lstrip()[:1] == "{" else _read_yaml(text)
    except RecursionError:
        raise ValueError("yaml: exceeded max depth") from None


def _read_yaml(text: str) -> Document:
    try:
        loader = _Loader(text)
        node = loader.get_node() if loader.check_node() else None
        value = None if node is None else _plain(node)
        if loader.yaml_version not in (None, (1, 1)):
            raise ValueError("yaml: found incompatible YAML document")
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"yaml: {line}{error.problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"yaml: {str(error).splitlines()[0]}") from None
    try:
        more = loader.check_node()
    except yaml.YAMLError:  # the kubelet never gets to what is wrong there
        more = True
    return Document(value, more_follow=more)


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
        r"|[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9][0-9_]*)?|\.[0-9]+([eE][-+]?[0-9]+)?"
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


# encoding/json stops there. How deep Python's own parser goes depends on its version.
_MAX_DEPTH = 10_000
_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\Z)|[][{}]', re.DOTALL)


def _nests_too_deeply(text: str) -> bool:
    depth = 0
    for token in _BRACKET.finditer(text):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(token[0], 0)
        if depth > _MAX_DEPTH:
            return True
    return False


def _read_json(text: str) -> Document:
    if _nests_too_deeply(text):
        raise RecursionError
    try:
        value = json.loads(text, object_pairs_hook=Object)
    except ValueError as error:
        raise ValueError(f"couldn't get version/kind; json parse error: {error}") from None
    return Document(_well_formed(value), is_json=True)


def _well_formed(value: Any) -> Any:
    """Half a surrogate pair, which no file or terminal takes, becomes U+FFFD as in Go."""
    match value:
        case str():
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case Object():
            return Object((_well_formed(key), _well_formed(each)) for key, each in value)
        case list():
            return [_well_formed(each) for each in value]
    return value
