"""The result of a command that changes the node: text or JSON, and the exit code."""

import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TypeVar

import click

from provider import __version__
from provider.commands.kubelet_config import PROVIDER_NAME
from provider.errors import as_provider_error

WOULD_CHANGE = 2

Say = Callable[[str], None]


@dataclass(slots=True)
class Outcome:
    """What a command did, or would do. The JSON has all fields of the subclass."""

    changed: bool

    @property
    def preview(self) -> str | None:
        """The text that a dry run also prints."""
        return None


_Outcome = TypeVar("_Outcome", bound=Outcome)


def inventoried(
    act: Callable[[], _Outcome], done: str, version: Callable[[], str | None], say: Say
) -> _Outcome:
    """Call ``act``. Then print which version the node has now, and the result: ``done`` if it changed
    something, "unchanged", or "failed" with the cause. `kubectl logs -l` collects the line.
    """
    state = "failed cause=internal"
    try:
        outcome = act()
        state = done if outcome.changed else "unchanged"
    except Exception as error:
        state = f"failed cause={as_provider_error(error).code}"
        raise
    finally:
        shown = (version() or "none").partition("+")[0]
        say(f"{PROVIDER_NAME} node={node_name()} version={shown} state={state}")
    return outcome


def node_name() -> str:
    """The node's name in the cluster, which the DaemonSet passes, else the host name."""
    return os.environ.get("NODE_NAME") or platform.node()


def run(
    name: str, path: str, dry_run: bool, as_json: bool, act: Callable[[Say], Outcome], say: Say
) -> int:
    """Call ``act`` and print its outcome, also if it fails. Returns the exit code; raises what it raises.

    ``path`` is the file or directory that the command is about.
    """
    lines: list[str] = []
    error: Exception | None = None
    outcome: Outcome | None = None
    try:
        outcome = act(lines.append if as_json else say)
    except click.UsageError:
        raise
    except Exception as failure:
        error = failure
    if as_json:
        shown = as_provider_error(error) if error else None
        content = {
            "version": __version__,
            "node": node_name(),
            "action": name,
            "dry_run": dry_run,
            "path": path,
            **(asdict(outcome) if outcome else {}),
            "error": shown and {"code": shown.code, "message": shown.message, "hint": shown.hint},
            "log": lines,
        }
        say(json.dumps(content, indent=2))
    elif dry_run and outcome and outcome.preview:
        say(outcome.preview.rstrip("\n"))
    if error:
        raise error
    return WOULD_CHANGE if dry_run and outcome and outcome.changed else 0
