"""The commands: print what ``switch`` does, as text or as JSON."""

import json
import platform
from collections.abc import Callable
from dataclasses import asdict

import click

from provider import __version__
from provider.commands.kubelet_service.switch import Outcome, Say
from provider.commands.node.kubelet_unit import DROP_IN
from provider.errors import ProviderError

WOULD_CHANGE = 2


def run(action: str, dry_run: bool, as_json: bool, take: Callable[[Say], Outcome], say: Say) -> int:
    """Take the action, and say what it says. Returns the exit code; raises ProviderError."""
    lines: list[str] = []
    error: ProviderError | None = None
    outcome: Outcome | None = None
    try:
        outcome = take(lines.append if as_json else say)
    except ProviderError as failure:
        error = failure
    if as_json:
        content = {
            "version": __version__,
            "node": platform.node(),
            "action": action,
            "dry_run": dry_run,
            "path": DROP_IN,
            **(asdict(outcome) if outcome else {}),
            "error": error and {"code": error.code, "message": error.message, "hint": error.hint},
            "log": lines,
        }
        click.echo(json.dumps(content, indent=2))
    elif dry_run and outcome and outcome.changed and outcome.drop_in:
        say(outcome.drop_in.rstrip("\n"))
    if error:
        raise error
    return WOULD_CHANGE if dry_run and outcome and outcome.changed else 0
