"""Output of ``enable`` and ``disable``: text or JSON, and the exit code."""

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


def run(name: str, dry_run: bool, as_json: bool, act: Callable[[Say], Outcome], say: Say) -> int:
    """Call ``act`` and print its outcome. Returns the exit code; raises ProviderError."""
    lines: list[str] = []
    error: ProviderError | None = None
    outcome: Outcome | None = None
    try:
        outcome = act(lines.append if as_json else say)
    except ProviderError as failure:
        error = failure
    if as_json:
        content = {
            "version": __version__,
            "node": platform.node(),
            "action": name,
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
