"""Parse YAML or JSON text the way the kubelet does.

The kubelet parses text that begins with a brace as JSON, and everything else as YAML 1.1 with Go's
yaml.v2 (scannerc.go, resolve.go and decode.go at v2.4). It reads the first YAML document only.
"""

import base64
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final, NamedTuple

import yaml


class Object(list[tuple[str, Any]]):
    """A JSON object as a list of pairs, so that duplicate keys are visible."""


class Document(NamedTuple):
    """A parsed text. ``value`` is None, bool, str, int, float, list or Object."""

    value: Any
    more_documents: bool = False


def read(text: str) -> Document:
    """Parse the text. Raises ValueError if the kubelet cannot parse it."""
    try:
        return Document(_read_json(text)) if text.lstrip()[:1] == "{" else _read_yaml(text)
    except RecursionError:
        raise ValueError("the values are nested too deeply") from None


def yaml_events(text: str) -> Iterator[yaml.Event]:
    """The events of PyYAML's parser, with their positions, for a YAML text that ``read`` accepts."""
    events: Iterator[yaml.Event] = yaml.parse(text, Loader=_Loader)
    return events


def json_kind(value: Any) -> str:
    """The JSON type of a value that is not null, with its article."""
    match value:
        case bool():
            return "a bool"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case Object():
            return "an object"
    return "a list"


def _read_yaml(text: str) -> Document:
    try:
        loader = _Loader(text)
        node = loader.get_node() if loader.check_node() else None
        value = None if node is None else _plain(node)
        if loader.yaml_version not in (None, (1, 1)):
            raise ValueError("not YAML: the version must be 1.1")
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"not YAML: {error.problem}{line}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {str(error).splitlines()[0]}") from None
    try:
        more = loader.check_node()
    except yaml.YAMLError:  # the kubelet does not read that far
        more = True
    return Document(value, more)


_TAGS: Final = "tag:yaml.org,2002:"
# The types of plain scalars in Go's yaml.v2. They differ from PyYAML's: y and n are booleans, 1:20 and
# dates are strings.
_TYPES: Final = {
    "null": re.compile("|~|null|Null|NULL"),
    "bool": re.compile(
        "y|Y|yes|Yes|YES|true|True|TRUE|on|On|ON|n|N|no|No|NO|false|False|FALSE|off|Off|OFF"
    ),
    "number": re.compile(
        r"[-+]?(0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+"
        r"|[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9][0-9_]*)?|\.[0-9]+([eE][-+]?[0-9]+)?"
        r"|\.(inf|Inf|INF))|\.(nan|NaN|NAN)"
    ),
}


class _Loader(yaml.BaseLoader):
    """PyYAML with the rules of Go's yaml.v2."""

    ESCAPE_REPLACEMENTS = {  # type: ignore[misc] # noqa: RUF012 # overrides a class attribute of PyYAML
        key: value for key, value in yaml.BaseLoader.ESCAPE_REPLACEMENTS.items() if key != "/"
    }

    def scan_directive(self) -> yaml.DirectiveToken:
        token = super().scan_directive()
        if token.name not in ("YAML", "TAG"):
            problem = f"found unknown directive %{token.name}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=token.start_mark)
        return token

    def scan_flow_scalar_non_spaces(self, double: Any, start_mark: Any) -> list[str]:
        chunks: list[str] = []
        with suppress(ValueError, OverflowError):  # from chr()
            chunks = super().scan_flow_scalar_non_spaces(double, start_mark)
            if not re.search("[\ud800-\udfff]", "".join(chunks)):
                return chunks
        problem = "found an escape that is not a Unicode character"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=start_mark)

    def scan_to_next_token(self) -> None:
        """Skip tabs too, except where a key can start."""
        super().scan_to_next_token()
        while self.peek() == "\t" and (self.flow_level or not self.allow_simple_key):
            self.forward()
            super().scan_to_next_token()

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:  # noqa: ARG002 # the signature is PyYAML's
        """The tag of a node without one: "" for a plain scalar, whose type ``_scalar`` finds."""
        return "" if kind is yaml.ScalarNode and implicit[0] else f"{_TAGS}str"


def _plain(node: yaml.Node) -> Any:
    """Convert a YAML node to JSON's types. Numbers become 0, because no field of the config is one."""
    if isinstance(node, yaml.MappingNode):
        return Object(_pairs(node))
    if isinstance(node, yaml.SequenceNode):
        return [_plain(each) for each in node.value]
    return _scalar(node)


def _scalar(node: yaml.Node) -> Any:
    text = node.value
    tag = node.tag.removeprefix(_TAGS)
    if tag == "binary":
        try:
            data = base64.b64decode(text.replace("\n", "").replace("\r", ""), validate=True)
        except ValueError:
            raise ValueError("not YAML: a !!binary value is not base64") from None
        return data.decode("utf-8", "replace")
    if tag in ("int", "float"):
        return 0
    if tag not in ("", "null", "bool", "timestamp"):
        return text
    found = next((name for name, pattern in _TYPES.items() if pattern.fullmatch(text)), "string")
    if tag not in ("", found):
        raise ValueError(f"not YAML: {text!r} is not a !!{tag}")
    match found:
        case "null":
            return None
        case "bool":
            return text.lower() in {"y", "yes", "true", "on"}
        case "number":
            return 0
    return text


def _pairs(node: yaml.MappingNode) -> Iterator[tuple[str, Any]]:
    for key, value in node.value:
        if key.value == "<<" and key.tag in ("", f"{_TAGS}merge"):
            merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for each in merged:
                if not isinstance(each, yaml.MappingNode):
                    raise ValueError("not YAML: the value of << must be a map or a list of maps")
                yield from _pairs(each)
        elif isinstance(key, yaml.ScalarNode):
            name = _scalar(key)
            yield (name if isinstance(name, str) else key.value), _plain(value)
        else:
            line = key.start_mark.line + 1
            raise ValueError(f"not YAML: a key is a list or a map in line {line}")


# The limit of Go's encoding/json. The limit of Python's parser depends on its version.
_MAX_DEPTH: Final = 10_000
_BRACKET: Final = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\Z)|[][{}]', re.DOTALL)


def _nests_too_deeply(text: str) -> bool:
    depth = 0
    for token in _BRACKET.finditer(text):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(token[0], 0)
        if depth > _MAX_DEPTH:
            return True
    return False


def _read_json(text: str) -> Any:
    if _nests_too_deeply(text):
        raise RecursionError
    try:
        value = json.loads(text, object_pairs_hook=Object)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    return _well_formed(value)


def _well_formed(value: Any) -> Any:
    """Replace lone surrogates by U+FFFD, as Go does."""
    match value:
        case str():
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case Object():
            return Object((_well_formed(key), _well_formed(each)) for key, each in value)
        case list():
            return [_well_formed(each) for each in value]
    return value
