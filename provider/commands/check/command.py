"""Run the check and print it as text or JSON."""

import json
import os
import platform
import shutil
import sys

import click

from provider import __version__
from provider.auth.service_account import service_account
from provider.commands.check import report
from provider.commands.check.runner import run_steps
from provider.commands.check.step import exit_code
from provider.image import parse_image

_MAX_WIDTH = 120


def run(image_text: str | None, token: str | None, as_json: bool, verbose: bool) -> int:
    """Print the check of an image and return the exit code. ``token`` is a service-account token.

    Raises BadRequest for a malformed image and NoServiceAccountToken for a malformed token.
    """
    image = parse_image(image_text) if image_text else None
    account = None if token is None else service_account(token)
    if as_json:
        steps = list(run_steps(image, account, os.environ))
        code = exit_code(steps)
        content = {
            "version": __version__,
            "node": platform.node(),
            "image": image_text,
            "holds": code == 0,
            "steps": [step.to_json() for step in steps],
        }
        click.echo(json.dumps(content, indent=2))
        return code
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    width = min(shutil.get_terminal_size((100, 0)).columns, _MAX_WIDTH)
    head = click.style(f"oke-credential-provider {__version__} on {platform.node()}", bold=True)
    click.echo(f"{head}{f', for {image_text}' if image_text else ''}\n", color=color)
    steps = []
    for step in run_steps(image, account, os.environ):
        steps.append(step)
        for line in report.lines(step, width, verbose):
            click.echo(line.rstrip(), color=color)
    click.echo(f"\n{report.summary(steps)}", color=color)
    return exit_code(steps)
