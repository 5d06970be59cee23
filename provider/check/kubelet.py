"""Would the kubelet ask this program? Judgements about what ``node`` has read; no I/O."""

import base64
import binascii
import gzip
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from provider.check.node import (
    BIN_DIR_FLAG,
    CONFIG_FLAG,
    USUAL_BIN_DIR,
    USUAL_CONFIG,
    Answered,
    ConfigFiles,
    Executable,
)
from provider.check.processes import Kubelet, Processes
from provider.check.step import Step, failed, not_visible, ok, skipped, warning
from provider.kubelet_config import (
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
from provider.version import Version

KUBELET: Final = "kubelet"
INIT_SCRIPT: Final = "init script"
CONFIG: Final = "provider config"
PROGRAMS: Final = "programs"
VERSION: Final = "version"
IMAGE: Final = "matchImages"

_FLAGS: Final = f"{BIN_DIR_FLAG}={USUAL_BIN_DIR} {CONFIG_FLAG}={USUAL_CONFIG}"
_HOW: Final = (
    "Put both flags on the kubelet's command line: in the node pool's init script, with a space"
    " after --kubelet-extra-args and never =. Then make the node anew.",
    f'  bash /var/run/oke-init.sh --kubelet-extra-args "{_FLAGS}"',
)
_OWNS_THE_NODE: Final = "The kubelet runs it as root: who can write there owns the node"
ROOT_ONLY: Final = (
    "Give the file, and every folder above it, to root alone: chown root:root, chmod go-w. Make the"
    " node anew if somebody may have used this."
)
# A `case` pattern of OKE's own script is no call of it.
_WITH_EQUALS: Final = re.compile(r"^(?!\s*#).*--kubelet-extra-args=(?!\*?\))", re.M)
_MAX_UNPACKED: Final = 1 << 20
# A file written in the same moment as the kubelet's start may be the one that it read.
_SAME_MOMENT: Final = 2.0


def judge_kubelet(processes: Processes, node: bool) -> Step:
    """Does one run, and with both flags? ``node``: a kubelet is installed here."""
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
    if len(missing) == 2:
        came = f"{who}: runs without the flags, so it asks no provider at all"
        return failed(KUBELET, "kubelet-without-flags", tried, came, *_HOW)
    if missing:
        came = f"{who}: {missing[0]} is missing; the kubelet needs both flags"
        return failed(KUBELET, "kubelet-without-one-flag", tried, came, *_HOW)
    if len(processes.proven) > 1:
        pids = ", ".join(str(other.pid) for other in processes.proven)
        why = "it is systemd's kubelet.service" if kubelet.of_unit else "it has the lowest pid"
        return warning(
            KUBELET,
            "several-kubelets",
            tried,
            f"{who}, with both flags; but root runs {len(processes.proven)} kubelets: pids {pids}",
            f"What follows is about pid {kubelet.pid}: {why}. Stop the others if they are not meant.",
        )
    return ok(KUBELET, tried, f"{who}, with both flags")


def judge_init_scripts(scripts: Mapping[str, str], flags_set: bool | None) -> Step:
    """Does a script lose the flags by ``--kubelet-extra-args=``? ``flags_set`` None: no kubelet."""
    tried = "the init script in the metadata, /var/run/oke-init.sh, /etc/oke"
    if not scripts:
        return skipped(INIT_SCRIPT, "no-init-script", "there is none that can be read here")
    found = [
        f"{source} line {text.count(chr(10), 0, match.start()) + 1}"
        for source, text in scripts.items()
        for match in [_WITH_EQUALS.search(text)]
        if match
    ]
    if not found:
        return ok(INIT_SCRIPT, f"{tried}; seen: {', '.join(scripts)}", "no --kubelet-extra-args=")
    report = warning if flags_set else failed
    return report(
        INIT_SCRIPT,
        "kubelet-extra-args-equals",
        tried,
        f"{', '.join(found)}: --kubelet-extra-args= is dropped in silence, with all its flags",
        "Write a space for the =, in the node pool's init script; new nodes take it:",
        f'  bash /var/run/oke-init.sh --kubelet-extra-args "{_FLAGS}"',
    )


def scripts_of_metadata(metadata: Mapping[str, object]) -> dict[str, str]:
    """The scripts in the instance's metadata: ``oke_init_script`` and ``user_data``, base64 both."""
    scripts = {}
    for name in ("oke_init_script", "user_data"):
        value = metadata.get(name)
        text = _unpacked(value) if isinstance(value, str) else None
        if text:
            scripts[f"metadata {name}"] = text
    return scripts


def _unpacked(text: str) -> str | None:
    """Base64, perhaps of gzip (cloud-init takes both), perhaps a MIME archive of parts in base64."""
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
        if data.startswith(b"\x1f\x8b"):
            with gzip.open(io.BytesIO(data)) as file:
                data = file.read(_MAX_UNPACKED)
    except (binascii.Error, ValueError, OSError, EOFError):
        return None
    if not data.lower().startswith((b"content-type:", b"mime-version:")):
        return data.decode("utf-8", "replace")
    from email import message_from_bytes

    parts = (part.get_payload(decode=True) for part in message_from_bytes(data).walk())
    return "\n".join(part.decode("utf-8", "replace") for part in parts if isinstance(part, bytes))


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
            "Write one, or correct the flag:",
            f"  {PROVIDER_NAME} config > {files.path}",
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
            "  systemctl restart kubelet",
        )
    if findings:
        came = f"the kubelet takes it, but {_told(findings[0])}"
        return warning(CONFIG, "config-traps", tried, came, *_advice(findings))
    return ok(CONFIG, tried, f"{files.path}: the kubelet takes it")


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
        cause, advice = "program-not-executable", (f"  chmod 755 {first.path}",)
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
            f"  file -L {path}",
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
        f"  {path} check",
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
            f"Add this line to its matchImages, and restart the kubelet ({_quoted(image)}):",
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
