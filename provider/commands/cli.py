"""The command line. A kubelet call never loads it."""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import click

from provider import __version__
from provider.plugin.docker_helper import ACTIONS, serve

HELP = """OCIR credentials for the kubelet on OKE nodes, without stored passwords.

Without a command, the program is a kubelet credential provider: it reads a CredentialProviderRequest
from standard input and prints a CredentialProviderResponse. To try it on an OCI instance:

\b
  echo '{"apiVersion": "credentialprovider.kubelet.k8s.io/v1",
         "kind": "CredentialProviderRequest",
         "image": "fra.ocir.io/namespace/repository"}' | oke-credential-provider

Settings come from environment variables (env in the CredentialProviderConfig). With --config FILE,
they come from that YAML file only.
"""


def _absolute(_context: click.Context, _option: click.Parameter, path: Path) -> Path:
    return Path(os.path.abspath(path))


def _path(name: str, default: str, meaning: str) -> Callable[[Any], Any]:
    return click.option(
        name,
        type=click.Path(path_type=Path),
        default=default,
        show_default=True,
        callback=_absolute,
        help=meaning,
    )


def _seconds(name: str, least: int, default: int, meaning: str) -> Callable[[Any], Any]:
    return click.option(
        name,
        type=click.IntRange(least, 600),
        default=default,
        show_default=True,
        metavar="SECONDS",
        help=meaning,
    )


_OUTPUT = click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="The output format.",
)
_PREFIX = _path(
    "--prefix", "/usr/local/lib/oke-credential-provider", "The directory of installed versions."
)
_REALM = click.option(
    "--realm", metavar="REALM", help="The config's realm (oc1, oc2, ...), or all."
)
_HOST = click.option(
    "--host", "hosts", multiple=True, metavar="HOST", help="An additional registry (ocir.my.cloud)."
)
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Print the changes and make none.")
_WATCH = _seconds("--watch", 0, 60, "How long the restarted kubelet must stay healthy.")
_TIMEOUT = _seconds("--timeout", 1, 90, "How long the kubelet may take to become healthy.")


@click.group(
    help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="oke-credential-provider")
@click.option(
    "--config", metavar="FILE", help="The settings file of a kubelet call (also: -config FILE)."
)
@click.option("--verbose", is_flag=True, help="Print the log, and a traceback after an error.")
def commands(config: str | None, verbose: bool) -> None:
    """See HELP. The options belong to kubelet calls; they are here for the help text only."""


@commands.command()
@_OUTPUT
def version(output: str) -> None:
    """Print the program's version and the versions of its components."""
    from provider.commands.version import version as read

    facts = dataclasses.asdict(read())
    if output == "json":
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(f"oke-credential-provider {facts.pop('version')}")
    for name, value in facts.items():
        shown = str(value).lower() if name == "frozen" else value
        click.echo(f"  {name.replace('_', ' '):<14}{shown}")


@commands.command()
@click.argument("image", required=False)
@_OUTPUT
@click.option(
    "--service-account-token",
    "token",
    type=click.File(),
    help="With workload identity: the token of the service account to test (-: standard input).",
)
@click.option("--verbose", is_flag=True, help="Print details of each step, even if it passes.")
def check(image: str | None, output: str, token: TextIO | None, verbose: bool) -> int:
    """Check whether this node can pull from OCIR, and say how to fix what fails.

    It inspects the running kubelet, its config and this program. Then it sends the requests of a
    kubelet call to OCI, with the kubelet's settings and environment. With IMAGE, written as in a pod,
    it also checks whether that image can be pulled. It changes nothing. Run it as root: other users
    see less.

    Exit code: 0 if no step fails (warnings are allowed), 1 if a step fails, 3 if no step fails but
    something could not be checked.
    """
    from provider.commands.check import command

    text = token.read().strip() if token else None
    return command.run(image, text, output == "json", verbose)


@commands.command()
@_REALM
@_HOST
@click.option(
    "--validate",
    metavar="FILE|DIR|-",
    help="Validate this config and print none (-: standard input).",
)
@click.option(
    "--merge",
    metavar="FILE|DIR|-",
    help="Print this config with the provider added (-: standard input).",
)
@click.option(
    "--bin-dir",
    metavar="DIR",
    help="With --validate: the directory of the programs (default: the kubelet's, else install's).",
)
@click.option(
    "--workload-identity",
    "audience",
    metavar="AUDIENCE",
    help="Pods pull with their service-account tokens, which have this audience (experimental).",
)
@click.option("--kubelet-version", metavar="1.34", help="Apply the rules of this kubelet version.")
@_OUTPUT
def config(
    realm: str | None,
    hosts: tuple[str, ...],
    validate: str | None,
    merge: str | None,
    bin_dir: str | None,
    audience: str | None,
    kubelet_version: str | None,
    output: str,
) -> int:
    """Print a CredentialProviderConfig for the kubelet, or validate one.

    The config is for the realm that the metadata service names, or for all realms if this is not an
    OCI instance. With --workload-identity, it ends with the RBAC rule and the policy to apply.

    --merge prints FILE with the provider's entry added to its list, in the style of that list; all
    other bytes stay. For a directory (kubelet 1.34), it prints the file to add. If an entry for this
    program exists, it prints FILE unchanged and says on standard error what differs. It refuses a
    config that the kubelet rejects, and one that it cannot edit without guessing, and gives the entry
    to paste. With --workload-identity, the RBAC rule and the policy go to standard error.

    --validate also checks the programs and the settings that the config names. Exit code: 1 if the
    kubelet would not start with the config, or if pulls from OCIR would fail.
    """
    from provider.commands import config as command

    if merge is not None:
        if validate or bin_dir or output == "json":
            raise click.UsageError("--merge excludes --validate, --bin-dir and --output")
        ours = command.write(realm, hosts, False, audience, kubelet_version)
        file, merged = command.merge(merge, ours, kubelet_version)
        note = f"{file}: entry added" if merged.added else command.kept_entry(file, merged)
        click.echo(f"{note}\n{command.workload_note(audience)}", err=True, nl=False)
        click.echo(merged.text.encode(), nl=False)
        return 0
    if validate is not None:
        return command.judge(validate, bin_dir, kubelet_version, output == "json")
    if bin_dir is not None:
        raise click.UsageError("--bin-dir requires --validate")
    text = command.write(realm, hosts, output == "json", audience, kubelet_version)
    click.echo(text, nl=False)
    return 0


@commands.command("docker-credential")
@click.argument("action", type=click.Choice(ACTIONS))
def docker_credential(action: str) -> int:
    """Act as a credential helper for docker, podman, skopeo, buildah and other tools.

    The tools run it as docker-credential-ocir. Link that name to this program in a directory of PATH,
    and add this to ~/.docker/config.json or ~/.config/containers/auth.json:

    {"credHelpers": {"fra.ocir.io": "ocir"}}
    """
    code, line = serve(action, os.environ)
    click.echo(line)
    return code


@commands.command()
def licenses() -> None:
    """Print the licenses of the software in this program."""
    from provider.commands.licenses import licenses as read

    click.echo(read())


def _say(text: str) -> None:
    """Print a line. A broken pipe or a full disk must not interrupt an installation."""
    with suppress(OSError):
        click.echo(text)


@commands.command()
@_path("--bin-dir", "/usr/local/bin", "The directory in which the kubelet looks for the program.")
@_path("--config-dir", "/etc/kubernetes", "The directory of credential-provider-config.yaml.")
@_PREFIX
@click.option(
    "--credential-helper",
    is_flag=True,
    help="Also install it as docker-credential-ocir (see docker-credential).",
)
@click.option(
    "--merge",
    metavar="[FILE|DIR]",
    is_flag=False,
    flag_value="",
    help="Add the provider to this config (default: the running kubelet's, else --config-dir's).",
)
@_REALM
@_HOST
@click.option(
    "--take-over",
    is_flag=True,
    help="Replace Oracle's Go provider: rename it to NAME.before-install. uninstall restores it.",
)
@click.option(
    "--allow-downgrade", is_flag=True, help="Continue even if a newer version is installed."
)
@click.option("--create-bin-dir", is_flag=True, help="Create --bin-dir if it does not exist.")
@_DRY_RUN
@_OUTPUT
def install(
    bin_dir: Path,
    config_dir: Path,
    prefix: Path,
    credential_helper: bool,
    realm: str | None,
    hosts: tuple[str, ...],
    merge: str | None,
    take_over: bool,
    allow_downgrade: bool,
    create_bin_dir: bool,
    dry_run: bool,
    output: str,
) -> int:
    """Unpack this program on the node, for the kubelet to call.

    An installed version stays in use until the new one has passed its self-test. The switch is one
    rename. The previous version stays on the node: to roll back, run its install --allow-downgrade.
    Your own config is kept. If the kubelet would not start with it, nothing is installed. install does
    not set the kubelet's flags. A second run changes nothing, or replaces damaged files.

    With --merge, it adds its entry to your config (see config --merge) and keeps the original file as
    NAME.before-install. In a config directory it adds a file. It updates an entry that it added and
    nobody changed. It keeps any other entry for this program and prints what differs. uninstall
    removes the entry.

    Oracle's Go provider (credential-provider-oke) is kept. The kubelet still calls it if its config
    names it. --take-over replaces it in one rename, without a restart of the kubelet.

    Later runs keep --realm and --host. Without --merge, they update the entry or file that --merge added,
    if it is there and nobody changed it. The last line on standard output names the node, its version and
    the result (installed, unchanged, failed).

    Exit code with --dry-run: 0 if nothing would change, 2 if something would, 1 for invalid options.
    """
    from provider.commands import outcome
    from provider.commands.install import InstallOptions, InstallPaths, install

    paths = InstallPaths(bin_dir, config_dir, prefix, credential_helper, merge)
    options = InstallOptions(realm, hosts, take_over, allow_downgrade, create_bin_dir, dry_run)
    act = partial(install, paths, options)
    return outcome.run("install", str(paths.link), dry_run, output == "json", act, _say)


@commands.command()
@_PREFIX
@click.option(
    "--force", is_flag=True, help="Continue even if the kubelet uses the installed files."
)
@_DRY_RUN
@_OUTPUT
def uninstall(prefix: Path, force: bool, dry_run: bool, output: str) -> int:
    """Remove what install put on the node, and the credential cache.

    It restores the programs that install renamed, for example Oracle's Go provider. It refuses to
    continue while a kubelet uses an installed file, because that kubelet could not start again. A
    kubelet whose config names only restored and other programs keeps working.

    Exit code with --dry-run: 0 if nothing would change, 2 if something would.
    """
    from provider.commands import outcome
    from provider.commands.install import uninstall

    act = partial(uninstall, prefix, force, dry_run)
    return outcome.run("uninstall", str(prefix), dry_run, output == "json", act, _say)


@commands.command()
@_path("--bin-dir", "/usr/local/bin", "The directory of the programs that the config names.")
@_path(
    "--config",
    "/etc/kubernetes/credential-provider-config.yaml",
    "The CredentialProviderConfig: a file, or a directory (kubelet 1.34).",
)
@_WATCH
@_TIMEOUT
@_DRY_RUN
@_OUTPUT
def enable(
    bin_dir: Path, config: Path, watch: int, timeout: int, dry_run: bool, output: str
) -> int:
    """Add the two credential provider flags to the running kubelet, and restart it.

    It checks every file that the kubelet will read. It adds a systemd drop-in to kubelet.service,
    which repeats the unit's command and adds the flags. It restarts the kubelet and watches its main
    process, its command line, its healthz endpoint and the node's containers. If the kubelet does not
    stay healthy, the change is rolled back. If this program is killed or the node loses power before
    the kubelet has proven healthy, it starts as before. Containers keep running.

    It renames no program. If the config names Oracle's Go provider (credential-provider-oke), the
    kubelet calls that. To change it, run install --take-over first.

    The last line on standard output names the node, its version and the result (enabled, unchanged,
    failed).

    Exit code with --dry-run: 0 if nothing would change, 2 if something would.
    """
    from provider.commands import outcome
    from provider.commands.kubelet_service import enable as service
    from provider.commands.kubelet_service import trial
    from provider.commands.node.kubelet_unit import DROP_IN

    paths = str(config), str(bin_dir)
    act = partial(service.enable, *paths, trial.Options(watch, timeout, dry_run))
    return outcome.run("enable", DROP_IN, dry_run, output == "json", act, _say)


@commands.command()
@_WATCH
@_TIMEOUT
@_DRY_RUN
@_OUTPUT
def disable(watch: int, timeout: int, dry_run: bool, output: str) -> int:
    """Remove the kubelet's two flags that enable added, and restart the kubelet.

    It removes the drop-in of enable and nothing else. It restarts and watches the kubelet as enable
    does.

    Exit code with --dry-run: 0 if nothing would change, 2 if something would.
    """
    from provider.commands import outcome
    from provider.commands.kubelet_service import enable as service
    from provider.commands.kubelet_service import trial
    from provider.commands.node.kubelet_unit import DROP_IN

    act = partial(service.disable, trial.Options(watch, timeout, dry_run))
    return outcome.run("disable", DROP_IN, dry_run, output == "json", act, _say)


@commands.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script: source <(oke-credential-provider completion bash)"""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    name = "oke-credential-provider"
    script = found(commands, {}, name, f"_{name.replace('-', '_').upper()}_COMPLETE")
    # Without an argument, the program would be a kubelet plugin.
    program = r"(_complete |commandline -t\) )(\$1|%\(prog_name\)s)"
    template = re.sub(program, r"\g<0> completion", found.source_template)
    click.echo(template % script.source_vars())


def run_command(argv: Sequence[str]) -> int:
    """Run a command. Returns the exit code; raises ProviderError."""
    try:
        code = commands.main(list(argv), prog_name="oke-credential-provider", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        # After a dry run, 2 means that something would change.
        return 1 if "--dry-run" in argv else error.exit_code
    except click.Abort:
        return 1
    return code if isinstance(code, int) else 0
