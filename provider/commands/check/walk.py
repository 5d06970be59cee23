"""The steps in their order: what the kubelet does, then what a call of its does."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from provider.auth.principal import Principal
from provider.auth.service_account import ServiceAccount
from provider.commands.check import identity, kubelet, metadata, repository, route, store, workload
from provider.commands.check.drop_in import judge_drop_in
from provider.commands.check.entry import misspelt, told
from provider.commands.check.flags import judge_unit
from provider.commands.check.init_script import judge_init_scripts, scripts_of_metadata
from provider.commands.check.step import (
    Step,
    Taken,
    broken,
    failed,
    needs,
    ok,
    skipped,
    timed,
    timed_taken,
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
# The steps that ask the registry and OCI, in their order.
_EXCHANGE = (
    route.REGISTRY_ROUTE,
    route.CLOCK,
    route.FEDERATION_ROUTE,
    identity.IDENTITY,
    identity.TOKEN,
    repository.PULL,
    store.STORE,
)


@dataclass(slots=True)
class _Plugin:
    """How the kubelet starts this program, as far as it is known."""

    config: CredentialProviderConfig | None = None
    entry: CredentialProvider | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
    source: str = "this shell's environment"


def walk(
    image: Image | None, account: ServiceAccount | None, environ: Mapping[str, str]
) -> Iterator[Step]:
    """Take every step, and yield it when it is done.

    ``account`` is the one whose pull is tried, with workload identity. ``environ`` is this process's
    own.
    """
    found = processes.find_kubelets(ask_version=True)
    plugin = _Plugin(environ=environ)
    unit = read_unit()
    installed = find_installed()
    (program,) = node.look_at(_bin_dir(found.kubelet, installed), [PROVIDER_NAME])
    yield timed(
        lambda: kubelet.judge_kubelet(found, node.is_a_node(), installed, unit, program.replaceable)
    )
    yield judge_unit(unit, found.kubelet)
    yield from judge_drop_in(unit, found.kubelet)
    yield from _config(found.kubelet, installed, plugin)
    settings = timed_taken(lambda: _settings(plugin))
    yield timed(lambda: _match(image, plugin, settings.value, found.kubelet))
    yield settings.step
    chosen = None
    if settings.value:
        yield from _workload(plugin.entry, settings.value, found.kubelet)
        chosen = settings.value.for_caller(account is not None)
    yield from _cloud(image, chosen, account, plugin.environ, found.kubelet)


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
        yield timed(lambda: workload.reach_cluster(settings, running))


def _config(
    running: processes.Kubelet | None, installed: Installed | None, plugin: _Plugin
) -> Iterator[Step]:
    """The kubelet's config, else the installed one; notes in ``plugin`` how we are called."""
    path = running.flag(node.CONFIG_FLAG) if running else None
    bin_dir = _bin_dir(running, installed)
    if path is None and installed:
        path = installed.config
    if path is None:
        if not os.path.exists(node.USUAL_CONFIG):
            yield skipped(kubelet.CONFIG, "no-config", "no kubelet names one")
            yield from _left_out(kubelet.CONFIG, kubelet.PROGRAMS, kubelet.VERSION)
            return
        path = node.USUAL_CONFIG
    files = node.read_config(path)
    step = timed(lambda: kubelet.judge_config(files, running))
    config = kubelet.decoded(files)
    if step.status in ("failed", "not visible") or config is None:
        yield step
        yield from _left_out(kubelet.CONFIG, kubelet.PROGRAMS, kubelet.VERSION)
        return
    ours = next((p for p in config.providers if node.is_ours(p.name, bin_dir)), None)
    yield step if ours else timed(lambda: kubelet.judge_entry(path, config, ours))
    names = [provider.name for provider in config.providers]
    yield timed(lambda: kubelet.judge_programs(node.look_at(bin_dir, names)))
    if ours is None:
        yield needs(kubelet.VERSION, kubelet.CONFIG)
        return
    plugin.config = config
    plugin.entry = ours
    inherited = running.environ if running else plugin.environ
    plugin.environ = {**inherited, **dict(ours.env)}
    plugin.source = f"env of {ours.name} in {path}" + (
        ", and the kubelet's own environment" if running else ", and this shell's environment"
    )
    program = os.path.join(bin_dir, ours.name)
    found = node.look_at(bin_dir, [ours.name])[0]
    if found.state == "ok" and not found.replaceable:
        yield timed(lambda: _version(program))
    else:
        yield needs(kubelet.VERSION, kubelet.PROGRAMS)


def _left_out(failed_step: str, *names: str) -> Iterator[Step]:
    return (needs(name, failed_step) for name in names)


def _match(
    image: Image | None,
    plugin: _Plugin,
    settings: Settings | None,
    running: processes.Kubelet | None,
) -> Step:
    if image is None:
        return skipped(kubelet.IMAGE, "no-image", "no image was named")
    if plugin.config is None or plugin.entry is None:
        return needs(kubelet.IMAGE, kubelet.CONFIG)
    text = f"{image.host}/{image.repository}"
    matched = kubelet.judge_match(
        text, plugin.config, plugin.entry, running.version if running else None
    )
    if matched.status == "failed" and not route.may_be_ocir(image.host, settings):
        came = f"no pattern matches {image.host}, and none should: it is not an OCIR registry"
        return skipped(kubelet.IMAGE, route.NOT_OCIR, came)
    return matched


def _version(program: str) -> Step:
    same = node.is_this_program(program)
    answered = None if same else node.ask_version(program)
    return kubelet.judge_version(program, same, answered, version())


def _settings(plugin: _Plugin) -> Taken[Settings]:
    """The settings of a call, read as a call reads them."""
    call = kubelet_call(plugin.entry.args) if plugin.entry else kubelet_call(())
    if call is None:
        return Taken(
            failed(
                SETTINGS,
                "bad-args",
                plugin.source,
                "with the args of its entry in the config this program is a command, and answers no"
                " request",
                "Take args out of the entry, or name a settings file there: args: [--config, FILE].",
            )
        )
    tried = call.settings_file or plugin.source
    if call.settings_file and (others := who_can_replace(call.settings_file)):
        return Taken(
            failed(
                SETTINGS,
                "settings-replaceable",
                tried,
                f"others than root can replace it: {others}. They choose to whom the node proves its"
                " identity",
                kubelet.ROOT_ONLY,
            )
        )
    try:
        if call.settings_file:
            settings = settings_from_file(call.settings_file)
        else:
            settings = settings_from_environment(plugin.environ)
    except ProviderError as error:
        return Taken(broken(SETTINGS, tried, error))
    came = settings.ocir_auth_method
    env = dict(plugin.entry.env) if plugin.entry else {}
    if wrong := misspelt(env):
        return Taken(
            warning(
                SETTINGS,
                "misspelt-variable",
                tried,
                f"{came}; {told(wrong)}",
                "A call ignores it. Correct the name in the provider's env, and restart the kubelet.",
            ),
            settings,
        )
    return Taken(ok(SETTINGS, tried, came), settings)


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
        described = timed_taken(metadata.ask_metadata)
        yield described.step
        instance = described.value
    else:
        yield skipped(metadata.METADATA, "not-needed", f"{method} does without it")
    scripts = node.init_scripts()
    if instance:
        scripts |= scripts_of_metadata(instance.metadata)
    flags = running.flag(node.CONFIG_FLAG) is not None if running else None
    if running or scripts:
        yield timed(lambda: judge_init_scripts(scripts, flags))
    if settings is None:
        yield from _left_out(SETTINGS, route.REGISTRY_NAME, *_EXCHANGE)
        return
    where = instance.where if instance else None
    host = f"ocir.{where.region}.oci.{where.realm_domain}" if where else None
    if image:
        named = image.host
        step = timed(lambda: route.judge_name(named, settings, where))
        yield step
        if step.status == "ok":
            host = named
        else:
            image = None
    else:
        yield skipped(route.REGISTRY_NAME, "no-image", "no image was named")
    if host is None:
        yield skipped(route.REGISTRY_ROUTE, "no-registry", "no registry is known: name an image")
        yield from _left_out(route.REGISTRY_ROUTE, *_EXCHANGE[1:])
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
    """What goes over the network, each step only where those that it needs went well."""
    try:
        origin = registry_origin(host, settings)
    except ProviderError as error:
        yield broken(route.REGISTRY_ROUTE, host, error)
        yield from _left_out(route.REGISTRY_ROUTE, *_EXCHANGE[1:])
        return
    way = timed(lambda: route.reach(route.REGISTRY_ROUTE, origin, environ))
    yield way
    reached = way.status == "ok"
    if reached:
        yield timed(lambda: route.look_at_clock(origin, environ))
    else:
        yield needs(route.CLOCK, route.REGISTRY_ROUTE)
    federated = _federation(instance, settings, environ)
    yield federated
    if federated.status == "failed":
        proved: Taken[Principal] = Taken(needs(identity.IDENTITY, route.FEDERATION_ROUTE))
    else:
        command = running.argv if running else ()
        proved = timed_taken(
            lambda: identity.prove_identity(instance, settings, account, environ, command)
        )
    yield proved.step
    token = None
    if reached:
        new = timed_taken(lambda: identity.get_token(proved.value, origin, settings, environ))
        yield new.step
        token = new.value
    else:
        yield needs(identity.TOKEN, route.REGISTRY_ROUTE)
    if image:
        named = image
        asker = repository.Asker(proved.value, token, settings, environ, instance)
        pull = timed(lambda: repository.try_pull(named, asker))
    else:
        pull = skipped(repository.PULL, "no-image", "no image was named that this program is for")
    yield pull
    yield timed(lambda: store.look_at_store(image, pull, settings, environ))


def _federation(
    instance: metadata.Instance | None, settings: Settings, environ: Mapping[str, str]
) -> Step:
    if settings.ocir_auth_method != INSTANCE_PRINCIPAL:
        came = f"{settings.ocir_auth_method} does without it"
        return skipped(route.FEDERATION_ROUTE, "not-needed", came)
    if instance is None:
        return needs(route.FEDERATION_ROUTE, metadata.METADATA)
    origin = identity.federation_origin(instance)
    return timed(lambda: route.reach(route.FEDERATION_ROUTE, origin, environ))
