"""The steps in their order: what the kubelet does, then what a call of its does."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from provider.arguments import kubelet_call
from provider.check import cloud, kubelet, node
from provider.check.iam import Ocids
from provider.check.step import Step, broken, failed, not_visible, ok, skipped, timed
from provider.errors import ProviderError
from provider.exchange import registry_origin
from provider.image import Image
from provider.kubelet_config import CredentialProvider
from provider.settings import (
    INSTANCE_PRINCIPAL,
    Settings,
    settings_from_environment,
    settings_from_file,
)
from provider.version import version

SETTINGS = "settings"


@dataclass(slots=True)
class _Plugin:
    """How the kubelet starts this program, as far as it is known."""

    entry: CredentialProvider | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
    source: str = "this shell's environment"
    guessed: bool = False  # the kubelet's own environment was not visible


def walk(image: Image | None, environ: Mapping[str, str]) -> Iterator[Step]:
    """Take every step, and yield it when it is done. ``environ`` is this process's own."""
    processes = node.find_kubelet()
    plugin = _Plugin(environ=environ)
    yield timed(lambda: kubelet.judge_kubelet(processes, node.is_a_node()))
    yield from _config(processes.kubelet, image, plugin)
    settings = cloud.timed_taken(lambda: _settings(plugin))
    yield settings.step
    yield from _cloud(image, settings.value, plugin.environ, processes.kubelet)


def _config(running: node.Kubelet | None, image: Image | None, plugin: _Plugin) -> Iterator[Step]:
    """The kubelet's config, and what it leads to; notes in ``plugin`` how we are called."""
    path = running.flag(node.CONFIG_FLAG) if running else None
    if path is None:
        if not os.path.exists(node.USUAL_CONFIG):
            yield skipped(kubelet.CONFIG, "no-config", "no kubelet names one")
            return
        path = node.USUAL_CONFIG
    bin_dir = (running.flag(node.BIN_DIR_FLAG) if running else None) or node.USUAL_BIN_DIR
    files = node.read_config(path)
    step = timed(lambda: kubelet.judge_config(files, running))
    config = kubelet.decoded(files)
    if step.status in ("failed", "not visible") or config is None:
        yield step
        return
    ours = next((p for p in config.providers if node.is_ours(p.name, bin_dir)), None)
    yield step if ours else timed(lambda: kubelet.judge_entry(path, config, ours))
    names = [provider.name for provider in config.providers]
    yield timed(lambda: kubelet.judge_programs(node.look_at(bin_dir, names)))
    if ours is None:
        return
    plugin.entry = ours
    plugin.guessed = running is not None and running.environ is None
    inherited = running.environ if running and running.environ is not None else plugin.environ
    plugin.environ = {**inherited, **dict(ours.env)}
    plugin.source = f"env of {ours.name} in {path}" + (
        ", and the kubelet's own environment" if running else ", and this shell's environment"
    )
    program = os.path.join(bin_dir, ours.name)
    if node.look_at(bin_dir, [ours.name])[0].state == "ok":
        yield timed(lambda: _version(program))
    if image is None:
        yield skipped(kubelet.IMAGE, "no-image", "no image was named")
    else:
        text = f"{image.host}/{image.repository}"
        yield timed(
            lambda: kubelet.judge_match(text, config, ours, running.version if running else None)
        )


def _version(program: str) -> Step:
    same = node.is_this_program(program)
    answered = None if same else node.ask_version(program)
    return kubelet.judge_version(program, same, answered, version())


def _settings(plugin: _Plugin) -> cloud.Taken[Settings]:
    """The settings of a call, read as a call reads them."""
    call = kubelet_call(plugin.entry.args) if plugin.entry else kubelet_call(())
    if call is None:
        return cloud.Taken(
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
    try:
        if call.settings_file:
            settings = settings_from_file(call.settings_file)
        else:
            settings = settings_from_environment(plugin.environ)
    except ProviderError as error:
        return cloud.Taken(broken(SETTINGS, tried, error))
    came = f"{settings.ocir_auth_method}, by {tried}"
    if plugin.guessed:
        return cloud.Taken(
            not_visible(
                SETTINGS,
                tried,
                f"{came}; but the kubelet's own environment (proxies, CA bundle) is root's to see,"
                " this shell's stands for it",
                "Run it as root.",
            ),
            settings,
        )
    return cloud.Taken(ok(SETTINGS, tried, came), settings)


def _cloud(
    image: Image | None,
    settings: Settings | None,
    environ: Mapping[str, str],
    running: node.Kubelet | None,
) -> Iterator[Step]:
    by_instance = settings is None or settings.ocir_auth_method == INSTANCE_PRINCIPAL
    instance: cloud.Instance | None = None
    if by_instance:
        described = cloud.timed_taken(cloud.ask_metadata)
        yield described.step
        instance = described.value
    else:
        yield skipped(cloud.METADATA, "not-needed", "USER_PRINCIPAL does without it")
    scripts = node.init_scripts()
    if instance:
        scripts |= kubelet.scripts_of_metadata(instance.metadata)
    flags = running.flag(node.CONFIG_FLAG) is not None if running else None
    if running or scripts:
        yield timed(lambda: kubelet.judge_init_scripts(scripts, flags))
    if settings is None:
        return
    where = instance.where if instance else None
    host = f"ocir.{where.region}.oci.{where.realm_domain}" if where else None
    if image:
        named = image.host
        step = timed(lambda: cloud.judge_name(named, settings, where))
        yield step
        if step.status == "ok":
            host = named
        else:
            image = None
    if host is None:
        yield skipped(cloud.REGISTRY_ROUTE, "no-registry", "no registry is known: name an image")
        return
    yield from _exchange(image, host, settings, environ, instance)


def _exchange(
    image: Image | None,
    host: str,
    settings: Settings,
    environ: Mapping[str, str],
    instance: cloud.Instance | None,
) -> Iterator[Step]:
    """What goes over the network, each step only where those that it needs went well."""
    try:
        origin = registry_origin(host, settings)
    except ProviderError as error:
        yield broken(cloud.REGISTRY_ROUTE, host, error)
        return
    route = timed(lambda: cloud.reach(cloud.REGISTRY_ROUTE, origin, environ))
    yield route
    reached = route.status == "ok"
    if reached:
        yield timed(lambda: cloud.look_at_clock(origin, environ))
    proving = None
    if instance:
        federation = cloud.federation_origin(instance)
        step = timed(lambda: cloud.reach(cloud.FEDERATION_ROUTE, federation, environ))
        yield step
        proving = instance if step.status == "ok" else None
    identity = cloud.timed_taken(lambda: cloud.prove_identity(proving, settings, environ))
    yield identity.step
    token = None
    if reached:
        new = cloud.timed_taken(lambda: cloud.get_token(identity.value, origin, settings, environ))
        yield new.step
        token = new.value
    else:
        yield cloud.needs(cloud.TOKEN, cloud.REGISTRY_ROUTE)
    if image:
        named = image
        ocids = instance.ocids if instance else Ocids()
        pull = timed(lambda: cloud.try_pull(named, token, settings, environ, ocids))
    else:
        pull = skipped(cloud.PULL, "no-image", "no image was named that this program is for")
    yield pull
    yield timed(lambda: cloud.look_at_store(image, pull, settings, environ))
