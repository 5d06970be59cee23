"""Run the steps of a check in order: first the kubelet's part of a pull, then this program's."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from provider.auth.instance_principal import federation_origin
from provider.auth.principal import Principal
from provider.auth.service_account import ServiceAccount
from provider.commands.check import cache, identity, kubelet, metadata, repository, route, workload
from provider.commands.check.drop_in import judge_drop_in
from provider.commands.check.flags import judge_unit
from provider.commands.check.init_script import judge_init_scripts, scripts_of_metadata
from provider.commands.check.misspelled import misspelled
from provider.commands.check.step import (
    Outcome,
    Step,
    blocked,
    failed,
    from_error,
    ok,
    skipped,
    timed,
    timed_outcome,
    warning,
)
from provider.commands.check.unit import read_unit
from provider.commands.kubelet_config import (
    PROVIDER_NAME,
    CredentialProvider,
    CredentialProviderConfig,
)
from provider.commands.node import files as node
from provider.commands.node import processes
from provider.commands.node.installed import Installed, find_installed
from provider.commands.version import version
from provider.errors import ProviderError
from provider.image import Image
from provider.ocir.exchange import registry_origin
from provider.plugin.arguments import kubelet_call
from provider.root_only import who_can_replace
from provider.settings import (
    INSTANCE_PRINCIPAL,
    WORKLOAD_IDENTITY,
    WORKLOAD_OR_INSTANCE,
    Settings,
    settings_from_environment,
    settings_from_file,
)

SETTINGS = "settings"
# The steps after the registry's name, in order.
_EXCHANGE = (
    route.REGISTRY_ROUTE,
    route.CLOCK,
    route.FEDERATION_ROUTE,
    identity.IDENTITY,
    identity.TOKEN,
    repository.PULL,
    cache.CACHE,
)


@dataclass(slots=True)
class _Plugin:
    """How the kubelet calls this program, as far as it is known."""

    config: CredentialProviderConfig | None = None
    entry: CredentialProvider | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
    source: str = "this shell's environment"


def run_steps(
    image: Image | None, account: ServiceAccount | None, environ: Mapping[str, str]
) -> Iterator[Step]:
    """Run each step and yield it.

    With workload identity, ``account`` is the service account that pulls. ``environ`` is this
    process's environment.
    """
    found = processes.find_kubelets(ask_version=True)
    plugin = _Plugin(environ=environ)
    unit = read_unit()
    installed = find_installed()
    (program,) = node.look_at(_bin_dir(found.kubelet, installed), [PROVIDER_NAME])
    yield timed(
        lambda: kubelet.judge_kubelet(
            found, node.has_kubelet(), installed, unit, program.replaceable
        )
    )
    yield judge_unit(unit, found.kubelet)
    yield from judge_drop_in(unit, found.kubelet)
    yield from _config(found.kubelet, installed, plugin)
    settings = timed_outcome(lambda: _settings(plugin))
    yield timed(lambda: _match(image, plugin, settings.value, found.kubelet))
    yield settings.step
    effective = None
    if settings.value:
        yield from _workload(plugin.entry, settings.value, found.kubelet)
        effective = settings.value.for_caller(account is not None)
    yield from _cloud(image, effective, account, plugin.environ, found.kubelet)


def _bin_dir(running: processes.Kubelet | None, installed: Installed | None) -> str:
    flag = running.flag(node.BIN_DIR_FLAG) if running else None
    return flag or (installed.bin_dir if installed else node.USUAL_BIN_DIR)


def _workload(
    entry: CredentialProvider | None, settings: Settings, running: processes.Kubelet | None
) -> Iterator[Step]:
    attributes = workload.judge_attributes(entry, settings)
    if attributes:
        yield attributes
    if settings.ocir_auth_method in (WORKLOAD_IDENTITY, WORKLOAD_OR_INSTANCE):
        yield timed(lambda: workload.check_cluster_route(settings, running))


def _config(
    running: processes.Kubelet | None, installed: Installed | None, plugin: _Plugin
) -> Iterator[Step]:
    """Check the kubelet's config, or the installed one, and complete ``plugin``."""
    path = running.flag(node.CONFIG_FLAG) if running else None
    bin_dir = _bin_dir(running, installed)
    if path is None and installed:
        path = installed.config
    if path is None:
        if not os.path.exists(node.USUAL_CONFIG):
            yield skipped(kubelet.CONFIG, "no-config", "no kubelet uses a config")
            yield from _blocked(kubelet.CONFIG, kubelet.PROGRAMS, kubelet.VERSION)
            return
        path = node.USUAL_CONFIG
    files = node.read_config(path)
    step = timed(lambda: kubelet.judge_config(files, running))
    config = kubelet.decoded(files)
    if step.status in ("failed", "not visible") or config is None:
        yield step
        yield from _blocked(kubelet.CONFIG, kubelet.PROGRAMS, kubelet.VERSION)
        return
    ours = next((p for p in config.providers if node.is_ours(p.name, bin_dir)), None)
    entry = kubelet.judge_entry(path, config, ours)
    yield step if entry.status == "ok" else entry
    names = [provider.name for provider in config.providers]
    yield timed(lambda: kubelet.judge_programs(node.look_at(bin_dir, names)))
    if ours is None or entry.status != "ok":
        yield blocked(kubelet.VERSION, kubelet.CONFIG)
        return
    plugin.config = config
    plugin.entry = ours
    inherited = running.environ if running else plugin.environ
    plugin.environ = {**inherited, **dict(ours.env)}
    owner = "the kubelet's own" if running else "this shell's"
    plugin.source = f"env of {ours.name} in {path}, and {owner} environment"
    program = os.path.join(bin_dir, ours.name)
    found = node.look_at(bin_dir, [ours.name])[0]
    if found.state == "ok" and not found.replaceable:
        yield timed(lambda: _version(program))
    else:
        yield blocked(kubelet.VERSION, kubelet.PROGRAMS)


def _blocked(failed_step: str, *names: str) -> Iterator[Step]:
    return (blocked(name, failed_step) for name in names)


def _match(
    image: Image | None,
    plugin: _Plugin,
    settings: Settings | None,
    running: processes.Kubelet | None,
) -> Step:
    if image is None:
        return skipped(kubelet.IMAGE, "no-image", "no image was given")
    if plugin.config is None or plugin.entry is None:
        return blocked(kubelet.IMAGE, kubelet.CONFIG)
    text = f"{image.host}/{image.repository}"
    step = kubelet.judge_match(
        text, plugin.config, plugin.entry, running.version if running else None
    )
    if step.status == "failed" and not route.may_be_ocir(image.host, settings):
        result = f"no pattern matches {image.host}, as intended: it is not an OCIR registry"
        return skipped(kubelet.IMAGE, route.NOT_OCIR, result)
    return step


def _version(program: str) -> Step:
    same = node.is_this_program(program)
    output = None if same else node.ask_version(program)
    return kubelet.judge_version(program, same, output, version())


def _settings(plugin: _Plugin) -> Outcome[Settings]:
    """Read the settings as a kubelet call does."""
    call = kubelet_call(plugin.entry.args) if plugin.entry else kubelet_call(())
    if call is None:
        return Outcome(
            failed(
                SETTINGS,
                "bad-args",
                plugin.source,
                "with the args of its entry in the config, this program runs a command and answers no"
                " request",
                "Remove args from the entry, or give only a settings file: args: [--config, FILE].",
            )
        )
    action = call.settings_file or plugin.source
    if call.settings_file and (others := who_can_replace(call.settings_file)):
        return Outcome(
            failed(
                SETTINGS,
                "settings-replaceable",
                action,
                f"users other than root can replace it: {others}. They can choose the hosts to which the"
                " node proves its identity",
                kubelet.ROOT_ONLY,
            )
        )
    try:
        if call.settings_file:
            settings = settings_from_file(call.settings_file)
        else:
            settings = settings_from_environment(plugin.environ)
    except ProviderError as error:
        return Outcome(from_error(SETTINGS, action, error))
    method = settings.ocir_auth_method
    wrong = misspelled(dict(plugin.entry.env) if plugin.entry else {})
    if not wrong:
        return Outcome(ok(SETTINGS, action, method), settings)
    names = ", ".join(
        f"{name} is not a setting (did you mean {meant}?)" for name, meant in wrong.items()
    )
    return Outcome(
        warning(
            SETTINGS,
            "misspelt-variable",
            action,
            f"{method}; {names}",
            "Calls ignore it. Correct the name in the provider's env, and restart the kubelet.",
        ),
        settings,
    )


def _cloud(
    image: Image | None,
    settings: Settings | None,
    account: ServiceAccount | None,
    environ: Mapping[str, str],
    running: processes.Kubelet | None,
) -> Iterator[Step]:
    method = settings.ocir_auth_method if settings else INSTANCE_PRINCIPAL
    instance: metadata.Instance | None = None
    if method in (INSTANCE_PRINCIPAL, WORKLOAD_IDENTITY):
        outcome = timed_outcome(metadata.check_metadata)
        yield outcome.step
        instance = outcome.value
    else:
        yield skipped(metadata.METADATA, "not-needed", f"{method} does not use it")
    scripts = node.init_scripts()
    if instance:
        scripts |= scripts_of_metadata(instance.metadata)
    flags = running.flag(node.CONFIG_FLAG) is not None if running else None
    if running or scripts:
        yield timed(lambda: judge_init_scripts(scripts, flags))
    if settings is None:
        yield from _blocked(SETTINGS, route.REGISTRY_NAME, *_EXCHANGE)
        return
    where = instance.where if instance else None
    host = route.ocir_host(where) if where else None
    if image:
        image_host = image.host
        step = timed(lambda: route.judge_name(image_host, settings, where))
        yield step
        if step.status == "ok":
            host = image_host
        else:
            image = None
    else:
        yield skipped(route.REGISTRY_NAME, "no-image", "no image was given")
    if host is None:
        yield skipped(route.REGISTRY_ROUTE, "no-registry", "the registry is unknown: name an image")
        yield from _blocked(route.REGISTRY_ROUTE, *_EXCHANGE[1:])
        return
    yield from _exchange(image, host, settings, account, environ, instance, running)


def _exchange(
    image: Image | None,
    host: str,
    settings: Settings,
    account: ServiceAccount | None,
    environ: Mapping[str, str],
    instance: metadata.Instance | None,
    running: processes.Kubelet | None,
) -> Iterator[Step]:
    """The steps that use the network. A step runs only if the steps that it needs succeeded."""
    try:
        origin = registry_origin(host, settings)
    except ProviderError as error:
        yield from_error(route.REGISTRY_ROUTE, host, error)
        yield from _blocked(route.REGISTRY_ROUTE, *_EXCHANGE[1:])
        return
    registry = timed(lambda: route.check_route(route.REGISTRY_ROUTE, origin, environ))
    yield registry
    reached = registry.status == "ok"
    if reached:
        yield timed(lambda: route.check_clock(origin, environ))
    else:
        yield blocked(route.CLOCK, route.REGISTRY_ROUTE)
    federation = _federation(instance, settings, environ)
    yield federation
    principal: Outcome[Principal]
    if federation.status == "failed":
        principal = Outcome(blocked(identity.IDENTITY, route.FEDERATION_ROUTE))
    else:
        command = running.argv if running else ()
        principal = timed_outcome(
            lambda: identity.get_principal(instance, settings, account, environ, command)
        )
    yield principal.step
    token = None
    if reached:
        outcome = timed_outcome(
            lambda: identity.get_token(principal.value, origin, settings, environ)
        )
        yield outcome.step
        token = outcome.value
    else:
        yield blocked(identity.TOKEN, route.REGISTRY_ROUTE)
    if image:
        ocir_image = image
        context = repository.PullContext(principal.value, token, settings, environ, instance)
        pull = timed(lambda: repository.check_image(ocir_image, context))
    else:
        pull = skipped(repository.PULL, "no-image", "no image of OCIR was given")
    yield pull
    yield timed(lambda: cache.check_cache(image, pull, settings, environ))


def _federation(
    instance: metadata.Instance | None, settings: Settings, environ: Mapping[str, str]
) -> Step:
    if settings.ocir_auth_method != INSTANCE_PRINCIPAL:
        result = f"{settings.ocir_auth_method} does not use it"
        return skipped(route.FEDERATION_ROUTE, "not-needed", result)
    if instance is None:
        return blocked(route.FEDERATION_ROUTE, metadata.METADATA)
    origin = federation_origin(instance.where)
    return timed(lambda: route.check_route(route.FEDERATION_ROUTE, origin, environ))
