"""Would the kubelet ask this program? Judgements about what ``node`` has read; no I/O."""

import json
import shlex
from collections.abc import Sequence
from typing import Final, Literal

from provider.commands.check.flags import KUBELET, restart, set_flags
from provider.commands.check.step import Step, failed, not_visible, ok, skipped, warning
from provider.commands.check.unit import Unit
from provider.commands.kubelet_config import (
    PROVIDER_NAME,
    ConfigError,
    CredentialProvider,
    CredentialProviderConfig,
    Finding,
    load,
    merge,
    patterns_that_match,
    providers_for,
    suggest_pattern,
    validate,
    validate_directory,
)
from provider.commands.node.files import (
    BIN_DIR_FLAG,
    CONFIG_FLAG,
    USUAL_BIN_DIR,
    USUAL_CONFIG,
    Answered,
    ConfigFiles,
    Executable,
)
from provider.commands.node.installed import Installed, where
from provider.commands.node.processes import Kubelet, Processes
from provider.commands.version import Version

CONFIG: Final = "provider config"
PROGRAMS: Final = "programs"
VERSION: Final = "version"
IMAGE: Final = "matchImages"

_OWNS_THE_NODE: Final = "The kubelet runs it as root: who can write there owns the node"
ROOT_ONLY: Final = (
    "Give the file, and every folder above it, to root alone: chown root:root, chmod go-w. Make the"
    " node anew if somebody may have used this."
)
# A file written in the same moment as the kubelet's start may be the one that it read.
_SAME_MOMENT: Final = 2.0


def judge_kubelet(
    processes: Processes,
    node: bool,
    installed: Installed | None,
    unit: Unit,
    replaceable: str | None = None,
) -> Step:
    """Does one run, and with both flags? ``node``: a kubelet is installed here. ``replaceable`` says how
    somebody else than root can replace the program that the advice would run.
    """
    tried = "processes of root's in /proc, outside of containers"
    kubelet = processes.kubelet
    for other in processes.kubelets:
        if other.replaceable:
            return failed(
                KUBELET,
                "kubelet-replaceable",
                tried,
                f"pid {other.pid}: others than root can replace this kubelet's program:"
                f" {other.replaceable}. {_OWNS_THE_NODE}",
                ROOT_ONLY,
            )
    hidden = not processes.all_seen or any(other.hidden for other in processes.kubelets)
    if kubelet is None and hidden:
        came = "this user may not see whether one of root's processes is the node's kubelet"
        return not_visible(
            KUBELET,
            tried,
            came,
            "Run it as root. In a debug pod: kubectl debug node/NAME --profile=sysadmin, then"
            " chroot /host.",
        )
    others = f" ({'; '.join(processes.strangers[:3])})" if processes.strangers else ""
    if kubelet is None and not node:
        came = f"this machine has no kubelet that root runs{others}"
        return skipped(KUBELET, "no-kubelet", came)
    if kubelet is None:
        return failed(
            KUBELET,
            "kubelet-not-running",
            tried,
            f"a kubelet is installed, and root runs none{others}",
            "A config that the kubelet does not accept, or a missing program, ends it at its start.",
            "Its last words:",
            "  journalctl -u kubelet --no-pager -n 50",
        )
    named = {flag: kubelet.flag(flag) for flag in (CONFIG_FLAG, BIN_DIR_FLAG)}
    missing = [flag for flag, value in named.items() if value is None]
    who = f"pid {kubelet.pid}" + (f", kubelet {kubelet.version}" if kubelet.version else "")
    if not missing and len(processes.proven) > 1:
        pids = ", ".join(str(other.pid) for other in processes.proven)
        why = "it is systemd's kubelet.service" if kubelet.of_unit else "it has the lowest pid"
        return warning(
            KUBELET,
            "several-kubelets",
            tried,
            f"{who}, with both flags; but root runs {len(processes.proven)} kubelets: pids {pids}",
            f"What follows is about pid {kubelet.pid}: {why}. Stop the others if they are not meant.",
        )
    if not missing:
        return ok(KUBELET, tried, f"{who}, with both flags")
    bin_dir = named[BIN_DIR_FLAG] or (installed.bin_dir if installed else USUAL_BIN_DIR)
    config = named[CONFIG_FLAG] or (installed and installed.config) or USUAL_CONFIG
    advice = (*where(installed), *set_flags(bin_dir, config, unit))
    if replaceable:
        advice = (
            f"Others than root can replace this program in {bin_dir}: {replaceable}. Mend that first,"
            " then run check again.",
            ROOT_ONLY,
        )
    if len(missing) == 2:
        came = f"{who}: runs without the flags, so it asks no provider at all"
        return failed(KUBELET, "kubelet-without-flags", tried, came, *advice)
    came = f"{who}: {missing[0]} is missing; the kubelet needs both flags"
    return failed(KUBELET, "kubelet-without-one-flag", tried, came, *advice)


def judge_config(files: ConfigFiles, kubelet: Kubelet | None) -> Step:
    """Would the kubelet start with this config?"""
    version = kubelet.version if kubelet else None
    tried = f"{files.path}, by the rules of kubelet {version or '1.36, the newest that is known'}"
    if files.denied:
        return not_visible(CONFIG, tried, f"{files.path}: {files.error}", "Run it as root.")
    if files.error:
        return failed(
            CONFIG,
            "config-unreadable",
            tried,
            f"{files.path}: {files.error}; the kubelet does not start without it",
            *_mend(files),
        )
    if files.replaceable:
        return failed(
            CONFIG,
            "config-replaceable",
            tried,
            f"others than root can replace it: {files.replaceable}. It says what the kubelet runs as"
            " root: who can write there owns the node",
            ROOT_ONLY,
        )
    if files.directory:
        findings = validate_directory(files.texts, kubelet_version=version)
    else:
        findings = validate(files.texts[files.path], kubelet_version=version)
    fatal = [finding for finding in findings if finding.severity == "fatal"]
    if fatal:
        return failed(
            CONFIG,
            _cause(fatal[0]),
            tried,
            f"the kubelet refuses it and exits: {_told(fatal[0])}",
            *_advice(findings[:5]),
            "Correct it before the kubelet's next start; a node that is restarted now is lost.",
        )
    if kubelet and files.changed > kubelet.started + _SAME_MOMENT:
        return warning(
            CONFIG,
            "config-newer-than-kubelet",
            tried,
            f"{files.path} was changed after the kubelet's start, and is read at its start only",
            *_advice(findings),
            "To take it:",
            f"  {restart(kubelet.flag(BIN_DIR_FLAG) or USUAL_BIN_DIR, files.path)}",
        )
    if findings:
        came = f"the kubelet takes it, but {_told(findings[0])}"
        return warning(CONFIG, "config-traps", tried, came, *_advice(findings))
    return ok(CONFIG, tried, f"{files.path}: the kubelet takes it")


def _mend(files: ConfigFiles) -> tuple[str, ...]:
    if files.exists:
        return (f"Correct the file, or let {CONFIG_FLAG} name another one.",)
    return (
        f"Correct {CONFIG_FLAG}, or write a config there:",
        f"  {PROVIDER_NAME} config >{shlex.quote(files.path)}",
    )


def _cause(finding: Finding) -> str:
    no_cache_type = finding.path.endswith("cacheType") and "Required" in finding.message
    return "config-without-cache-type" if no_cache_type else "config-refused"


def _told(finding: Finding) -> str:
    return f"{finding.path}: {finding.message}" if finding.path else finding.message


def _advice(findings: Sequence[Finding]) -> list[str]:
    return [f"{f.path or 'the file'}: {f.hint or f.message}." for f in findings]


def decoded(files: ConfigFiles) -> CredentialProviderConfig | None:
    """The config, as the newest kubelet reads it; None when it would refuse it."""
    try:
        return merge(files.texts) if files.directory else load(files.texts[files.path])
    except (ConfigError, KeyError):
        return None


def judge_entry(
    path: str, config: CredentialProviderConfig, ours: CredentialProvider | None
) -> Step:
    """Is this program in the config at all?"""
    tried = f"providers of {path}"
    if ours:
        return ok(CONFIG, tried, f"{path} has {ours.name}")
    others = ", ".join(provider.name for provider in config.providers) or "none"
    return failed(
        CONFIG,
        "config-without-us",
        tried,
        f"{path} names only: {others}; the flags point elsewhere, or the entry is missing",
        f"Add the entry that this prints, or let {CONFIG_FLAG} point to a file that has it:",
        f"  {PROVIDER_NAME} config",
    )


def judge_programs(programs: Sequence[Executable]) -> Step:
    """Are all programs that the config names there? The kubelet exits over one that is not."""
    tried = ", ".join(program.path for program in programs)
    wrong = [program for program in programs if program.state != "ok"]
    for program in programs:
        if not wrong and program.replaceable:
            return failed(
                PROGRAMS,
                "program-replaceable",
                tried,
                f"{program.path}: others than root can replace it: {program.replaceable}."
                f" {_OWNS_THE_NODE}",
                ROOT_ONLY,
            )
    if not wrong:
        return ok(PROGRAMS, tried, "all there, executable, and root's alone")
    first = wrong[0]
    if first.denied:
        return not_visible(PROGRAMS, tried, f"{first.path} is not to be seen", "Run it as root.")
    advice: tuple[str, ...]
    cause: Literal["program-missing", "program-not-executable"]
    if first.state == "not executable":
        cause, advice = "program-not-executable", (f"  chmod 755 {shlex.quote(first.path)}",)
    else:
        cause = "program-missing"
        advice = (
            f"The name in the config is the file's name in {BIN_DIR_FLAG}, exactly.",
            "Install it there, or correct the name or the flag.",
        )
    came = f"{first.path}: {first.state}; the kubelet exits at its next start"
    return failed(PROGRAMS, cause, tried, came, *advice)


def judge_version(path: str, same: bool, answered: Answered | None, running: Version) -> Step:
    """Is what the kubelet runs the same as what runs now? ``same``: it is the same file."""
    tried = f"{path} version"
    mine = f"{running.version} ({running.commit})"
    if same or answered is None:
        return ok(VERSION, tried, f"{mine}, and the kubelet's is the same")
    if answered.error:
        return warning(
            VERSION,
            "program-does-not-answer",
            tried,
            f"{path}: {answered.error}",
            "It is another program than this one, or one built for another machine.",
            "See what it is:",
            f"  file -L {shlex.quote(path)}",
        )
    try:
        content = json.loads(answered.text)
        theirs = f"{content['version']} ({content['commit']})"
    except (ValueError, KeyError, TypeError):
        came = f"{path} does not answer as this program does: it is another one"
        return warning(VERSION, "program-is-another", tried, came, "Install this one there.")
    if theirs == mine:
        return ok(VERSION, tried, f"{mine}, and the kubelet's is the same")
    return warning(
        VERSION,
        "version-differs",
        tried,
        f"this is {mine}, and {path}, which the kubelet runs, is {theirs}",
        "What follows is what this version does. Run the installed one to check that:",
        f"  {shlex.quote(path)} check",
    )


def judge_match(
    image: str, config: CredentialProviderConfig, ours: CredentialProvider, version: str | None
) -> Step:
    """Does the kubelet ask us about this image, and us first?"""
    tried = f"matchImages of {ours.name} for {image}"
    patterns = [
        pattern for name, pattern in patterns_that_match(config, image) if name == ours.name
    ]
    if not patterns:
        return failed(
            IMAGE,
            "image-not-matched",
            tried,
            f"no pattern of {ours.name} matches {image}, so the kubelet does not ask it",
            f"Add this line to its matchImages ({_quoted(image)}). Then check the config by"
            " config --validate, and restart the kubelet:",
            f'  - "{suggest_pattern(image)}"',
        )
    first = providers_for(config, image, kubelet_version=version)[0]
    if first.name != ours.name:
        return warning(
            IMAGE,
            "another-provider-first",
            tried,
            f"{first.name} matches too, and stands first: its credentials are tried before ours",
            f"Narrow the matchImages of {first.name}, or let {ours.name} stand before it.",
        )
    return ok(IMAGE, tried, f'"{patterns[0]}" matches {image}')


def _quoted(image: str) -> str:
    labels = image.partition("/")[0].count(".") + 1
    return f"its host has {labels} labels, and a * covers one"
