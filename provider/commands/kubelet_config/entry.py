"""Add this provider's entry to a CredentialProviderConfig, or remove it, as an edit of the text. No I/O.

YAML is edited at the positions that PyYAML reports, JSON at those of the json module. All other bytes
stay. The result is decoded and compared: it must be the old config plus, or minus, the entry.
"""

import json
import re
from collections.abc import Container, Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from itertools import pairwise
from typing import Any, Final, NamedTuple

import yaml

from provider.commands.kubelet_config.decode import config_files, load
from provider.commands.kubelet_config.document import Document, Object, read, yaml_events
from provider.commands.kubelet_config.model import ALIAS, PROVIDER_NAME, CredentialProvider

_Span = tuple[int, int]
_KEY: Final = "providers"
_SPACE: Final = re.compile(r"[ \t\r\n]*")
# A line without content, with the line break before it: its indentation and its comment.
_EMPTY_LINE: Final = re.compile(r"\r?\n([ \t]*)(#[^\r\n]*)?(?=\r?\n|\Z)")
_OTHER_LINE_BREAK: Final = re.compile("\r(?!\n)|[\x85\u2028\u2029]")


class Merged(NamedTuple):
    """A config that has the entry.

    ``added``: the entry is new. ``differences`` says what is different in an entry that was kept.
    """

    text: str
    added: bool = False
    differences: tuple[str, ...] = ()


def merge_entry(text: str, ours: str, written: str = "") -> Merged:
    """Merge the only provider of the config ``ours`` into the config ``text``.

    An existing entry is kept, unless its ``entry_digest`` is ``written``: then it is replaced in its
    place. Raises ValueError if the kubelet rejects ``text``, or if the edit would be a guess.
    """
    present = find_entry(text)
    if present is None:
        return Merged(_put(text, ours, len(load(text).providers)), added=True)
    with suppress(ValueError):  # the entry is in a text that cannot be edited
        if written and entry_digest(text) == written:
            return Merged(_put(text, ours, _index(text)))
    (wanted,) = load(ours).providers
    return Merged(text, differences=tuple(_differences(present, wanted)))


def find_entry(text: str) -> CredentialProvider | None:
    """The entry for this program, under either of its names. Raises ConfigError."""
    providers = load(text).providers
    return next((each for each in providers if each.name in (PROVIDER_NAME, ALIAS)), None)


def file_for_entry(files: Mapping[str, str], taken: Container[str]) -> str:
    """The file of a config directory that has the entry, else a name that is not ``taken``.

    Raises ValueError if the kubelet rejects one of the files.
    """
    for name in config_files(files):
        try:
            if find_entry(files[name]):
                return name
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    name, number = f"{PROVIDER_NAME}.yaml", 1
    while name in taken:
        number += 1
        name = f"{PROVIDER_NAME}-{number}.yaml"
    return name


def remove_entry(text: str) -> str:
    """The config without the entry that ``merge_entry`` adds. Raises ValueError.

    Without other providers, the kubelet would reject the result.
    """
    value, providers = _providers(text)
    if len(providers) == 1:
        raise ValueError("it is the only provider")
    index = _index(text)
    start, end = _cuts(text)[index]
    rest = [*providers[:index], *providers[index + 1 :]]
    return _checked(text[:start] + text[end:], value, rest)


def entry_digest(text: str) -> str:
    """A digest of the entry's text, to recognize an entry that nobody has edited; "" without an entry.

    Raises ValueError.
    """
    if all(each.name != PROVIDER_NAME for each in load(text).providers):
        return ""
    _, spans = _json_items(text) if _is_json(text) else _yaml_items(text)
    start, end = spans[_index(text)]
    return sha256(text[start:end].encode()).hexdigest()


def entry_json(ours: str) -> str:
    """The only provider of the config ``ours`` on one line, which is valid in YAML and JSON."""
    return json.dumps(_to_dict(_providers(ours)[1][0]))


def _put(text: str, ours: str, index: int) -> str:
    """Put the entry at ``index``: in the place of the one there, or after the last one."""
    value, providers = _providers(text)
    (entry,) = _providers(ours)[1]
    put = (
        _put_into_json(text, entry, index) if _is_json(text) else _put_into_yaml(text, ours, index)
    )
    return _checked(put, value, [*providers[:index], entry, *providers[index + 1 :]])


def _providers(text: str) -> tuple[Object, list[Any]]:
    load(text)  # raises ConfigError
    document = read(text)
    if document.more_documents:
        raise ValueError(
            "the file has several YAML documents, and the kubelet reads only the first"
        )
    return document.value, dict(document.value).get(_KEY) or []


def _index(text: str) -> int:
    return [each.name for each in load(text).providers].index(PROVIDER_NAME)


def _checked(edited: str, value: Object, providers: list[Any]) -> str:
    expected = Object((key, providers if key == _KEY else each) for key, each in value)
    if read(edited) != Document(expected):
        raise ValueError("the edit would change other parts of the config")
    return edited


def _cuts(text: str) -> list[_Span]:
    """For each provider, the text to cut out, with its separator from the provider before it."""
    if not _is_json(text):
        column, spans = _yaml_items(text)
        starts = (start - column for start, _ in spans)  # of the lines
        return [
            (start - (2 if text[:start].endswith("\r\n") else 1), end)
            for start, (_, end) in zip(starts, spans, strict=True)
        ]
    _, spans = _json_items(text)
    if len(spans) == 1:
        return spans
    return [(spans[0][0], spans[1][0]), *((last[1], span[1]) for last, span in pairwise(spans))]


def _is_json(text: str) -> bool:
    return text.lstrip()[:1] == "{"


# --- YAML -----------------------------------------------------------------------------------------


def _put_into_yaml(text: str, ours: str, index: int) -> str:
    """Put the lines of the entry, with its comments, there."""
    column, spans = _yaml_items(text)
    start, end = spans[min(index, len(spans) - 1)]
    newline = "\r\n" if text[: start - column].endswith("\r\n") else "\n"
    own_column, ((own_start, own_end),) = _yaml_items(ours)
    lines = ours[own_start - own_column : own_end].split("\n")
    entry = newline.join(f"{' ' * column}{line[own_column:]}" for line in lines)
    if index < len(spans):
        return text[: start - column] + entry + text[end:]
    end = _after_comments(text, end, column)
    return text[:end] + newline + entry + text[end:]


def _after_comments(text: str, end: int, column: int) -> int:
    """The end of the comments that belong to the item before ``end``: they are indented deeper."""
    at = end
    while line := _EMPTY_LINE.match(text, at):
        at = line.end()
        if line[2] and len(line[1]) > column:
            end = at
    return end


def _yaml_items(text: str) -> tuple[int, list[_Span]]:
    """The column of the list's dashes, and each item from its dash to the end of its last line."""
    if _OTHER_LINE_BREAK.search(text):
        raise ValueError("the file has line breaks that are neither LF nor CRLF")
    events = yaml_events(text)
    root = next(event for event in events if isinstance(event, yaml.MappingStartEvent))
    if root.flow_style:
        raise ValueError("the file is in YAML's flow style, {...}")
    for key in events:
        if isinstance(key, yaml.MappingEndEvent):
            raise ValueError(f"{_KEY} is not a key in the text: it is an alias or merged (<<)")
        _node_end(key, events)
        start = next(events)
        if isinstance(key, yaml.ScalarEvent) and key.value == _KEY:
            break
        _node_end(start, events)
    if not isinstance(start, yaml.SequenceStartEvent) or start.anchor or start.tag:
        raise ValueError(f"the list of {_KEY} is an alias, or has an anchor or a tag")
    if start.flow_style:
        raise ValueError(f"the list of {_KEY} is in YAML's flow style, [...]")
    assert start.start_mark is not None
    column, at = start.start_mark.column, start.start_mark.index
    if text[at - column : at].strip(" "):
        raise ValueError(f"the list of {_KEY} does not start on a line of its own")
    dash = re.compile(f"^ {{{column}}}-", re.MULTILINE)
    spans: list[_Span] = []
    end = at - column
    for event in events:
        if isinstance(event, yaml.SequenceEndEvent):
            break
        found = dash.search(text, end)
        assert found is not None
        end = _line_end(text, _node_end(event, events))
        spans.append((found.end() - 1, end))
    return column, spans


def _node_end(event: yaml.Event, events: Iterator[yaml.Event]) -> int:
    """Consume the rest of a node. Returns the end of its last scalar, alias or bracket."""
    assert event.end_mark is not None
    end = event.end_mark.index
    if isinstance(event, yaml.CollectionStartEvent):
        for inner in events:
            if isinstance(inner, yaml.CollectionEndEvent):
                break
            end = _node_end(inner, events)
        if event.flow_style:
            assert inner.end_mark is not None
            end = inner.end_mark.index
    return end


def _line_end(text: str, at: int) -> int:
    """The end of the line, before its line break. A block scalar ends after its line break."""
    end = at - 1 if text[at - 1] == "\n" else text.find("\n", at)
    end = len(text) if end < 0 else end
    return end - 1 if text[end - 1 : end + 1] == "\r\n" else end


# --- JSON -----------------------------------------------------------------------------------------


def _put_into_json(text: str, entry: Object, index: int) -> str:
    """Put the entry there, in the style of the one that it replaces or follows."""
    opening, spans = _json_items(text)
    start, end = spans[min(index, len(spans) - 1)]
    model = text[start:end]
    put = json.dumps(_to_dict(entry))
    if "\n" in model:
        newline = "\r\n" if "\r\n" in model else "\n"
        indent = _indent(text[:end].rpartition("\n")[2])
        inner = _indent(model.split("\n")[1])
        lines = json.dumps(_to_dict(entry), indent=inner.removeprefix(indent) or "  ").split("\n")
        put = (newline + indent).join(lines)
    if index < len(spans):
        return text[:start] + put + text[end:]
    lead = text[spans[-2][1] : start].partition(",")[2] if spans[1:] else text[opening + 1 : start]
    return f"{text[:end]},{lead}{put}{text[end:]}"


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t"))]


def _json_items(text: str) -> tuple[int, list[_Span]]:
    """The position of the list's bracket, and each item. ``text`` is valid."""
    decode = json.JSONDecoder(object_pairs_hook=Object).raw_decode
    key, at = "", text.index("{")
    while True:
        key, at = decode(text, _skip(text, at + 1))
        at = _skip(text, _skip(text, at) + 1)  # the colon
        if key == _KEY:
            break
        at = _skip(text, decode(text, at)[1])
        if text[at] != ",":
            raise ValueError(f"the file has no {_KEY}")
    opening, spans = at, list[_Span]()
    at = _skip(text, at + 1)
    while text[at] != "]":
        spans.append((at, decode(text, at)[1]))
        at = _skip(text, spans[-1][1])
        at = _skip(text, at + 1) if text[at] == "," else at
    return opening, spans


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at


def _to_dict(value: Any) -> Any:
    if isinstance(value, Object):
        return {key: _to_dict(each) for key, each in value}
    return [_to_dict(each) for each in value] if isinstance(value, list) else value


# --- differences ----------------------------------------------------------------------------------


def _differences(present: CredentialProvider, wanted: CredentialProvider) -> list[str]:
    """What is different in ``present``. Values of variables are left out: they may be secrets."""
    found = []
    if present.name != wanted.name:
        found.append(f"name is {present.name}")
    found += _changes(
        "matchImages", dict.fromkeys(present.match_images), dict.fromkeys(wanted.match_images)
    )
    if present.default_cache_duration != wanted.default_cache_duration:
        found.append(f"defaultCacheDuration is {present.default_cache_duration:g} s")
    if present.api_version != wanted.api_version:
        found.append(f"apiVersion is {present.api_version}")
    if present.args != wanted.args:
        found.append("args differ")
    found += _changes("env", dict(present.env), dict(wanted.env))
    if present.token_attributes != wanted.token_attributes:
        found.append("tokenAttributes differ")
    return found


def _changes(
    field: str, present: Mapping[str, str | None], wanted: Mapping[str, str | None]
) -> list[str]:
    both = present.keys() & wanted.keys()
    lists = {
        "lacks": [key for key in wanted if key not in present],
        "also has": [key for key in present if key not in wanted],
        "has other values of": [
            key for key in wanted if key in both and present[key] != wanted[key]
        ],
    }
    return [f"{field} {verb} {', '.join(keys)}" for verb, keys in lists.items() if keys]
