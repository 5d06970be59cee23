"""The commands for people. The kubelet's call never comes here."""

import dataclasses
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

import click

from provider import __version__
from provider.plugin.docker_helper import ACTIONS

HELP = """OCIR credentials for the kubelet of OKE nodes, with no stored password.

Without a command it is what the kubelet calls: it reads a CredentialProviderRequest from standard
input and prints a CredentialProviderResponse. To see one by hand, on an OCI instance:

\b
  echo '{"apiVersion": "credentialprovider.kubelet.k8s.io/v1",
         "kind": "CredentialProviderRequest",
         "image": "fra.ocir.io/namespace/repository"}' | oke-credential-provider

Settings come from the environment (in the CredentialProviderConfig: env), or from a YAML file alone
when --config FILE is given.
"""


@click.group(
    help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="oke-credential-provider")
@click.option(
    "--config", metavar="FILE", help="A kubelet call's settings file (also: -config FILE)."
)
@click.option("--verbose", is_flag=True, help="Show the log, and a traceback after an error.")
def commands(config: str | None, verbose: bool) -> None:
    """See HELP. The options are a kubelet call's; here they only stand in the help."""


@commands.command()
@click.option(
    "--output", type=click.Choice(["text", "json"]), default="text", help="How to print it."
)
def version(output: str) -> None:
    """Say what this program is and what it was built from."""
    from provider.commands.version import version as look

    found = dataclasses.asdict(look())
    if output == "json":
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"oke-credential-provider {found.pop('version')}")
    for name, value in found.items():
        click.echo(
            f"  {name.replace('_', ' '):<14}{str(value).lower() if name == 'frozen' else value}"
        )


@commands.command()
@click.argument("image", required=False)
@click.option(
    "--output", type=click.Choice(["text", "json"]), default="text", help="How to print it."
)
@click.option(
    "--service-account-token",
    "token",
    type=click.File(),
    help="With workload identity: the token of the account whose pull is tried (-: standard input).",
)
@click.option("--verbose", is_flag=True, help="Show what was tried, also where all is well.")
def check(image: str | None, output: str, token: TextIO | None, verbose: bool) -> int:
    """Say whether this node can pull from OCIR, and if not, what to do.

    It looks at the running kubelet, its config and this program, and then asks OCI what a call would
    ask, with the settings and the environment that the kubelet gives. With IMAGE, as a pod names
    it, it also finds out whether that one may be pulled. It changes nothing. Root sees most.

    Exit code: 0 when all holds (warnings are allowed), 1 when a step failed, 3 when nothing failed
    but something could not be seen.
    """
    from provider.commands.check import command

    text = token.read().strip() if token else None
    return command.run(image, text, output == "json", verbose)


@commands.command()
@click.option("--realm", metavar="REALM", help="Of this realm (oc1, oc2, ...), or of all.")
@click.option(
    "--host", "hosts", multiple=True, metavar="HOST", help="One more registry (ocir.my.cloud)."
)
@click.option(
    "--validate",
    metavar="FILE|DIR|-",
    help="Judge this config in place of printing one (-: standard input).",
)
@click.option(
    "--bin-dir",
    metavar="DIR",
    help="With --validate: where the programs are (default: where this node's kubelet or install says).",
)
@click.option(
    "--workload-identity",
    "audience",
    metavar="AUDIENCE",
    help="Pods pull as their service accounts, whose tokens are for this audience (experimental).",
)
@click.option("--kubelet-version", metavar="1.34", help="By this kubelet's rules.")
@click.option(
    "--output", type=click.Choice(["text", "json"]), default="text", help="How to print it."
)
def config(
    realm: str | None,
    hosts: tuple[str, ...],
    validate: str | None,
    bin_dir: str | None,
    audience: str | None,
    kubelet_version: str | None,
    output: str,
) -> int:
    """Print a CredentialProviderConfig for the kubelet, or judge one.

    It is for this node's realm, as the metadata service names it; elsewhere for all realms. With
    --workload-identity, what Kubernetes and OCI must be told stands at its end.

    --validate also judges the programs and the settings that the config names. Exit code: 1 when the
    kubelet would not start with it, or pulls from OCIR would fail.
    """
    from provider.commands import config as configure

    if validate is not None:
        return configure.judge(validate, bin_dir, kubelet_version, output == "json")
    if bin_dir is not None:
        raise click.UsageError("--bin-dir goes with --validate")
    text = configure.write(realm, hosts, output == "json", audience, kubelet_version)
    click.echo(text, nl=False)
    return 0


@commands.command("docker-credential")
@click.argument("action", type=click.Choice(ACTIONS))
def docker_credential(action: str) -> int:
    """Be a credential helper for docker, podman, skopeo, buildah and others.

    They start it under the name docker-credential-ocir: link that name to this program, in a folder
    of PATH, and put into ~/.docker/config.json or ~/.config/containers/auth.json:

    {"credHelpers": {"fra.ocir.io": "ocir"}}
    """
    import os

    from provider.plugin.docker_helper import serve

    code, line = serve(action, os.environ)
    click.echo(line)
    return code


@commands.command()
def licenses() -> None:
    """Print the licences of the software in this program."""
    from provider.commands.licenses import licenses as read

    click.echo(read())


def _say(text: str) -> None:
    """Print a line. A broken pipe or a full disk behind it must not stop an installation half way."""
    with suppress(OSError):
        click.echo(text)


_PREFIX = click.option(
    "--prefix",
    type=click.Path(),
    default="/usr/local/lib/oke-credential-provider",
    show_default=True,
    help="Where the versions are.",
)
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Only say what would be done.")


@commands.command()
@click.option(
    "--bin-dir",
    type=click.Path(),
    default="/usr/local/bin",
    show_default=True,
    help="Where the kubelet finds the program.",
)
@click.option(
    "--config-dir",
    type=click.Path(),
    default="/etc/kubernetes",
    show_default=True,
    help="Where credential-provider-config.yaml is.",
)
@_PREFIX
@click.option(
    "--credential-helper",
    is_flag=True,
    help="Also as docker-credential-ocir (see docker-credential).",
)
@_DRY_RUN
def install(
    bin_dir: str, config_dir: str, prefix: str, credential_helper: bool, dry_run: bool
) -> None:
    """Put this program on the node, unpacked, for the kubelet to call.

    A version that is there works until the new one has passed its test; one rename switches over.
    The version before stays, to go back: run its own install command. A config of your own is kept;
    with one that the kubelet would not start with, nothing is installed. The kubelet's flags are not
    set. Run again, it changes nothing, or repairs what was damaged.
    """
    import os
    from pathlib import Path

    from provider.commands.install import Places, install

    places = Places(
        bin_dir=Path(os.path.abspath(bin_dir)),
        config_dir=Path(os.path.abspath(config_dir)),
        prefix=Path(os.path.abspath(prefix)),
        helper=credential_helper,
    )
    install(places, dry_run, _say)


@commands.command()
@_PREFIX
@click.option("--force", is_flag=True, help="Also when the kubelet still names it.")
@_DRY_RUN
def uninstall(prefix: str, force: bool, dry_run: bool) -> None:
    """Take away what install put on the node.

    The tokens that calls share go too; everything else stays. What a running kubelet was started with stays: without it, it would not start again.
    """
    import os
    from pathlib import Path

    from provider.commands.install import uninstall

    uninstall(Path(os.path.abspath(prefix)), force, dry_run, _say)


_OUTPUT = click.option(
    "--output", type=click.Choice(["text", "json"]), default="text", help="How to print it."
)
_WATCH = click.option(
    "--watch",
    type=click.FloatRange(0, 600),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="How long the restarted kubelet must stay healthy.",
)
_TIMEOUT = click.option(
    "--timeout",
    type=click.FloatRange(1, 600),
    default=90,
    show_default=True,
    metavar="SECONDS",
    help="How long it may take to become healthy.",
)


@commands.command()
@click.option(
    "--bin-dir",
    type=click.Path(),
    default="/usr/local/bin",
    show_default=True,
    help="Where the kubelet finds the programs that the config names.",
)
@click.option(
    "--config",
    type=click.Path(),
    default="/etc/kubernetes/credential-provider-config.yaml",
    show_default=True,
    help="The CredentialProviderConfig: a file, or a directory (kubelet 1.34).",
)
@_WATCH
@_TIMEOUT
@_DRY_RUN
@_OUTPUT
def enable(
    bin_dir: str, config: str, watch: float, timeout: float, dry_run: bool, output: str
) -> int:
    """Give the running kubelet its two flags, and restart it.

    It adds a systemd drop-in to kubelet.service, which repeats the unit's own command and adds the
    flags. Before that it checks everything that the kubelet will read. The kubelet is then restarted
    and watched: its main process, its command line, its healthz, the node's containers. If it does
    not stay healthy, the change is rolled back. If this program, or the node, ends at any moment, the
    kubelet starts as it did before. Containers run on.

    Exit code with --dry-run: 0 when nothing would change, 2 when something would.
    """
    import os

    from provider.commands.kubelet_service import command, switch

    flags = switch.flags(os.path.abspath(config), os.path.abspath(bin_dir))
    options = switch.Options(watch, timeout, dry_run)
    take = lambda say: switch.enable(flags, options, say)  # noqa: E731
    return command.run("enable", dry_run, output == "json", take, _say)


@commands.command()
@_WATCH
@_TIMEOUT
@_DRY_RUN
@_OUTPUT
def disable(watch: float, timeout: float, dry_run: bool, output: str) -> int:
    """Take the kubelet's two flags away again, as enable gave them.

    Removes enable's drop-in and nothing else. The kubelet is restarted and watched as by enable.

    Exit code with --dry-run: 0 when nothing would change, 2 when something would.
    """
    from provider.commands.kubelet_service import command, switch

    options = switch.Options(watch, timeout, dry_run)
    take = lambda say: switch.disable(options, say)  # noqa: E731
    return command.run("disable", dry_run, output == "json", take, _say)


def run_command(argv: Sequence[str]) -> int:
    """Run a command. Returns the exit code; raises ProviderError."""
    try:
        code = commands.main(list(argv), prog_name="oke-credential-provider", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 1
    return code if isinstance(code, int) else 0
