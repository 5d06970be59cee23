"""Judge the running kubelet, its config and the providers' programs. No I/O."""

import json
import os
import shlex
from collections.abc import Sequence
from typing import Final

from provider.commands.check.flags import KUBELET, restart, set_flags
from provider.commands.check.step import AS_ROOT, Step, failed, not_visible, ok, skipped, warning
from provider.commands.check.unit import Unit
from provider.commands.kubelet_config import (
    ALIAS,
    PROVIDER_NAME,
    ConfigError,
    CredentialProvider,
    CredentialProviderConfig,
    Finding,
    fields_with_nul,
    load,
    merge,
    patterns_that_match,
    providers_for,
    suggest_pattern,
)
from provider.commands.node.files import (
    BIN_DIR_FLAG,
    CONFIG_FLAG,
    NOT_A_PROGRAM,
    NOT_EXECUTABLE,
    USUAL_BIN_DIR,
    USUAL_CONFIG,
    ConfigFiles,
    Executable,
    Output,
    findings_of,
)
from provider.commands.node.installed import Installed, where
from provider.commands.node.processes import Kubelet, Processes
from provider.commands.version import Version

CONFIG: Final = "provider config"
PROGRAMS: Final = "programs"
VERSION: Final = "version"
IMAGE: Final = "matchImages"

_OWNS_NODE: Final = "root runs it: a user who can write there controls the node"
ROOT_ONLY: Final = (
    "Make root the only owner and writer of the file and of every folder above it: chown root:root,"
    " chmod go-w. If somebody may have used this, replace the node."
)
NUL_MESSAGE: Final = "it contains a NUL character: the kubelet cannot start the program"


def judge_kubelet(
    processes: Processes,
    node: bool,
    installed: Installed | None,
    unit: Unit,
    replaceable: str | None = None,
) -> Step:
    """Judge whether a kubelet runs with both flags.

    ``node``: a kubelet is installed here. ``replaceable`` says how a user other than root can replace
    the program that the advice would run.
    """
    action = "root's processes in /proc outside of containers"
    kubelet = processes.kubelet
    for other in processes.kubelets:
        if other.replaceable:
            return failed(
                KUBELET,
                "kubelet-replaceable",
                action,
                f"pid {other.pid}: users other than root can replace the kubelet's program:"
                f" {other.replaceable}; {_OWNS_NODE}",
                ROOT_ONLY,
            )
    hidden = not processes.all_seen or any(other.hidden for other in processes.kubelets)
    if kubelet is None and hidden:
        return not_visible(
            KUBELET,
            action,
            "this user cannot see whether root runs a kubelet",
            f"{AS_ROOT} In a debug pod: kubectl debug node/NAME --profile=sysadmin, then chroot /host.",
        )
    others = f" ({'; '.join(processes.impostors[:3])})" if processes.impostors else ""
    if kubelet is None and not node:
        return skipped(KUBELET, "no-kubelet", f"root runs no kubelet on this machine{others}")
    if kubelet is None:
        return failed(
            KUBELET,
            "kubelet-not-running",
            action,
            f"a kubelet is installed, but root runs none{others}",
            "The kubelet exits at its start if its config is invalid or a program is missing."
            " To see its last messages:",
            "  journalctl -u kubelet --no-pager -n 50",
        )
    values = {flag: kubelet.flag(flag) for flag in (CONFIG_FLAG, BIN_DIR_FLAG)}
    missing = [flag for flag, value in values.items() if value is None]
    name = f"pid {kubelet.pid}" + (f", kubelet {kubelet.version}" if kubelet.version else "")
    if not missing and len(processes.proven) > 1:
        pids = ", ".join(str(other.pid) for other in processes.proven)
        why = "it is systemd's kubelet.service" if kubelet.of_unit else "it has the lowest pid"
        return warning(
            KUBELET,
            "several-kubelets",
            action,
            f"{name}, with both flags; but root runs {len(processes.proven)} kubelets: pids {pids}",
            f"The next steps are about pid {kubelet.pid}: {why}. Stop the others unless you need them.",
        )
    if not missing:
        return ok(KUBELET, action, f"{name}, with both flags")
    bin_dir = values[BIN_DIR_FLAG] or (installed.bin_dir if installed else USUAL_BIN_DIR)
    config = values[CONFIG_FLAG] or (installed and installed.config) or USUAL_CONFIG
    advice = (*where(installed), *set_flags(bin_dir, config, unit))
    if replaceable:
        advice = (
            f"Users other than root can replace this program in {bin_dir}: {replaceable}. First fix"
            " that, then run the check again.",
            ROOT_ONLY,
        )
    if len(missing) == 2:
        result = f"{name}: runs without the flags, so it calls no credential provider"
        return failed(KUBELET, "kubelet-without-flags", action, result, *advice)
    result = f"{name}: {missing[0]} is missing; the kubelet needs both flags"
    return failed(KUBELET, "kubelet-without-one-flag", action, result, *advice)


def judge_config(files: ConfigFiles, kubelet: Kubelet | None) -> Step:
    """Judge whether the kubelet starts with this config."""
    version = kubelet.version if kubelet else None
    action = f"{files.path}, by the rules of kubelet {version or '1.36, the newest known version'}"
    if files.denied:
        return not_visible(CONFIG, action, f"{files.path}: {files.error}")
    if files.error:
        return failed(
            CONFIG,
            "config-unreadable",
            action,
            f"{files.path}: {files.error}; the kubelet does not start without it",
            *_replace_config(files),
        )
    if files.replaceable:
        return failed(
            CONFIG,
            "config-replaceable",
            action,
            f"users other than root can replace it: {files.replaceable}. It names programs that run as"
            " root: a user who can write there controls the node",
            ROOT_ONLY,
        )
    findings = findings_of(files, version)
    fatal = [finding for finding in findings if finding.severity == "fatal"]
    if fatal:
        no_cache_type = fatal[0].path.endswith("cacheType") and "required" in fatal[0].message
        return failed(
            CONFIG,
            "config-without-cache-type" if no_cache_type else "config-refused",
            action,
            f"the kubelet rejects it and exits: {fatal[0]}",
            *_advice(findings[:5]),
            "Correct it before the kubelet's next start: a node that restarts now stays down.",
        )
    # A kubelet without the flag reads no config, and its restart would change nothing.
    if kubelet and kubelet.flag(CONFIG_FLAG) and files.is_newer_than(kubelet.started):
        return warning(
            CONFIG,
            "config-newer-than-kubelet",
            action,
            f"{files.path} was changed after the kubelet's start, and the kubelet reads it only then",
            *_advice(findings),
            "To put it into effect:",
            f"  {restart(kubelet.flag(BIN_DIR_FLAG) or USUAL_BIN_DIR, files.path)}",
        )
    if findings:
        result = f"the kubelet accepts it, but {findings[0]}"
        return warning(CONFIG, "config-traps", action, result, *_advice(findings))
    return ok(CONFIG, action, f"{files.path}: the kubelet accepts it")


def _replace_config(files: ConfigFiles) -> tuple[str, ...]:
    if files.exists:
        return (f"Correct the file, or set {CONFIG_FLAG} to another one.",)
    return (
        f"Correct {CONFIG_FLAG}, or write a config there:",
        f"  {PROVIDER_NAME} config >{shlex.quote(files.path)}",
    )


def _advice(findings: Sequence[Finding]) -> list[str]:
    return [f"{f.path or 'the file'}: {f.hint or f.message}." for f in findings]


def decoded(files: ConfigFiles) -> CredentialProviderConfig | None:
    """The config as the newest kubelet reads it; None if it rejects the config."""
    try:
        return merge(files.texts) if files.directory else load(files.texts[files.path])
    except (ConfigError, KeyError):
        return None


def judge_entry(
    path: str, config: CredentialProviderConfig, ours: CredentialProvider | None
) -> Step:
    """Judge whether the config has a usable entry for this program."""
    action = f"providers of {path}"
    if ours and (fields := fields_with_nul(ours)):
        result = f"{path}: {', '.join(fields)} of {ours.name}: {NUL_MESSAGE}"
        return failed(CONFIG, "config-unusable", action, result, "Remove the NUL character.")
    if ours:
        return ok(CONFIG, action, f"{path} has {ours.name}")
    others = ", ".join(provider.name for provider in config.providers) or "none"
    return failed(
        CONFIG,
        "config-without-us",
        action,
        f"{path} has no entry for this program, only for: {others}",
        f"Add the entry that this command prints, or set {CONFIG_FLAG} to a file that has it:",
        f"  {PROVIDER_NAME} config",
    )


def judge_programs(programs: Sequence[Executable]) -> Step:
    """Judge the programs that the config names. The kubelet exits if one is missing."""
    action = ", ".join(program.path for program in programs)
    wrong = [program for program in programs if program.state != "ok"]
    for program in programs:
        if not wrong and program.replaceable:
            return failed(
                PROGRAMS,
                "program-replaceable",
                action,
                f"{program.path}: users other than root can replace it: {program.replaceable};"
                f" {_OWNS_NODE}",
                ROOT_ONLY,
            )
    if not wrong:
        return ok(PROGRAMS, action, "all programs exist, and only root can replace them")
    first = wrong[0]
    if first.denied:
        return not_visible(PROGRAMS, action, f"{first.path}: this user cannot see it")
    if first.state == NOT_A_PROGRAM:
        result = f"{first.path} is {first.state}: the kubelet cannot run it"
        advice = "Install the program again: the file may be damaged or incomplete."
        return failed(PROGRAMS, "program-not-runnable", action, result, advice)
    result = f"{first.path}: {first.state}; the kubelet exits at its next start"
    if first.state == NOT_EXECUTABLE:
        advice = f"  chmod 755 {shlex.quote(first.path)}"
        return failed(PROGRAMS, "program-not-executable", action, result, advice)
    return failed(
        PROGRAMS,
        "program-missing",
        action,
        result,
        f"The name in the config must be the exact name of the file in {BIN_DIR_FLAG}.",
        "Install the program there, or correct the name or the flag.",
    )


def judge_version(path: str, same: bool, output: Output | None, running: Version) -> Step:
    """Compare the program that the kubelet runs with this one. ``same``: it is the same file."""
    action = f"{path} version"
    mine = f"{running.version} ({running.commit})"
    if same or output is None:
        return ok(VERSION, action, f"{mine}, the same as the kubelet's")
    if output.error:
        return warning(
            VERSION,
            "program-does-not-answer",
            action,
            f"{path}: {output.error}",
            "It is another program, or it was built for another machine. To see what it is:",
            f"  file -L {shlex.quote(path)}",
            *_take_over(path),
        )
    try:
        content = json.loads(output.text)
        theirs = f"{content['version']} ({content['commit']})"
    except (ValueError, KeyError, TypeError):
        result = f"{path} is another program: its output is not this program's"
        advice = "Install this program there."
        return warning(VERSION, "program-is-another", action, result, advice, *_take_over(path))
    if theirs == mine:
        return ok(VERSION, action, f"{mine}, the same as the kubelet's")
    return warning(
        VERSION,
        "version-differs",
        action,
        f"this is {mine}, but the kubelet runs {theirs}: {path}",
        "The next steps show what this version does. To check the installed version, run it:",
        f"  {shlex.quote(path)} check",
    )


def _take_over(path: str) -> tuple[str, ...]:
    if os.path.basename(path) != ALIAS:
        return ()
    bin_dir = shlex.quote(os.path.dirname(path))
    return (
        "If it is Oracle's Go provider, this replaces it, and uninstall restores it:",
        f"  {PROVIDER_NAME} install --take-over --bin-dir {bin_dir}",
    )


def judge_match(
    image: str, config: CredentialProviderConfig, ours: CredentialProvider, version: str | None
) -> Step:
    """Judge whether the kubelet calls this program for the image, and calls it first."""
    action = f"matchImages of {ours.name} for {image}"
    patterns = [
        pattern for name, pattern in patterns_that_match(config, image) if name == ours.name
    ]
    if not patterns:
        labels = image.partition("/")[0].count(".") + 1
        return failed(
            IMAGE,
            "image-not-matched",
            action,
            f"no pattern of {ours.name} matches {image}, so the kubelet does not call it",
            f"Add this line to its matchImages (the host has {labels} labels, and a * matches one). Then"
            " check the config with config --validate, and restart the kubelet:",
            f'  - "{suggest_pattern(image)}"',
        )
    first = providers_for(config, image, kubelet_version=version)[0]
    if first.name != ours.name:
        return warning(
            IMAGE,
            "another-provider-first",
            action,
            f"{first.name} matches too, and comes first: its credentials are used before ours",
            f"Restrict the matchImages of {first.name}, or move {ours.name} before it.",
        )
    return ok(IMAGE, action, f'"{patterns[0]}" matches {image}')
