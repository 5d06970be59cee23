"""The command: takes the steps, shows each when it is done."""

import dataclasses
import json
import os
import platform
import shutil
import sys

import click

from provider import __version__
from provider.auth.service_account import service_account
from provider.commands.check import page
from provider.commands.check.step import exit_code
from provider.commands.check.walk import walk
from provider.image import parse_image

_WIDEST = 120


def run(image_text: str | None, token: str | None, as_json: bool, verbose: bool) -> int:
    """Check, and print; ``token`` is a service account's. Returns the exit code.

    Raises BadRequest when the image is none, and NoServiceAccountToken when the token is none.
    """
    image = parse_image(image_text) if image_text else None
    account = None
    if token is not None:
        account = service_account(token)
    if as_json:
        steps = list(walk(image, account, os.environ))
        code = exit_code(steps)
        content = {
            "version": __version__,
            "node": platform.node(),
            "image": image_text,
            "holds": code == 0,
            "steps": [dataclasses.asdict(step) for step in steps],
        }
        click.echo(json.dumps(content, indent=2))
        return code
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    width = min(shutil.get_terminal_size((100, 0)).columns, _WIDEST)
    head = click.style(f"oke-credential-provider {__version__} on {platform.node()}", bold=True)
    click.echo(f"{head}{f', for {image_text}' if image_text else ''}\n", color=coloured)
    steps = []
    for step in walk(image, account, os.environ):
        steps.append(step)
        for line in page.lines(step, width, verbose):
            click.echo(line.rstrip(), color=coloured)
    click.echo(f"\n{page.summary(steps)}", color=coloured)
    return exit_code(steps)
