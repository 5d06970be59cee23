"""Check whether the principal can pull the image, and diagnose why not."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from provider.auth.principal import Principal
from provider.auth.workload_identity import EXPERIMENTAL
from provider.commands.check import step as steps
from provider.commands.check.iam import (
    Ocids,
    list_repositories,
    node_may_read,
    other_tenancy,
    user_may_read,
    workload_may_read,
)
from provider.commands.check.identity import TOKEN
from provider.commands.check.metadata import Instance
from provider.commands.check.route import new_client
from provider.commands.check.step import Step
from provider.errors import ProviderError
from provider.image import Image
from provider.net.client import Client
from provider.net.http import Origin
from provider.ocir.credentials import PullCheck
from provider.ocir.exchange import registry_origin
from provider.ocir.pull_check import check_pull
from provider.ocir.token import Token
from provider.settings import INSTANCE_PRINCIPAL, WORKLOAD_IDENTITY, Settings

PULL: Final = "pull"
_NAMESPACE: Final = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*", re.A)
_PULL_SECRETS: Final = (
    "imagePullSecrets are not the cause: the kubelet tries a pod's own secrets first, and then these"
    " credentials."
)


@dataclass(frozen=True, slots=True)
class PullContext:
    """What a pull needs. ``principal`` and ``token`` are None if an earlier step failed."""

    principal: Principal | None
    token: Token | None
    settings: Settings
    environ: Mapping[str, str]
    instance: Instance | None


@dataclass(frozen=True, slots=True)
class Repository:
    """What OCI says about a repository.

    ``check``: the result of the pull check. ``public``: everybody can pull the image.
    ``our_namespace``: the tenancy's namespace. None: unknown.
    """

    check: PullCheck
    public: bool | None = None
    exists: bool | None = None
    our_namespace: str | None = None


def check_image(image: Image, context: PullContext) -> Step:
    """Check whether the principal can pull this image, and whether everybody can."""
    if context.token is None or context.principal is None:
        return steps.blocked(PULL, TOKEN)
    client = new_client(registry_origin(image.host, context.settings), context.environ)
    check = check_pull(client, image, context.token)
    public = exists = namespace = None
    if _exists_and_allowed(check):
        public = _is_public(client, image, context.settings)
    elif check.status == "allowed":
        exists = _exists(client, image, context.token)
    elif check.status == "denied":
        namespace = _our_namespace(context.principal, context)
    by_instance = context.settings.ocir_auth_method == INSTANCE_PRINCIPAL
    ocids = context.instance.ocids if context.instance else Ocids()
    if context.settings.ocir_auth_method == WORKLOAD_IDENTITY:
        may_read = (*workload_may_read(ocids), EXPERIMENTAL)
    else:
        may_read = node_may_read(ocids) if by_instance else user_may_read(ocids)
    return judge_pull(image, Repository(check, public, exists, namespace), may_read, ocids)


def _exists_and_allowed(check: PullCheck) -> bool:
    return check.status == "allowed" and check.code is None


def _is_public(client: Client, image: Image, settings: Settings) -> bool | None:
    """Try the pull without credentials, as a container runtime does."""
    scope = f"service={image.host}&scope=repository:{image.repository}:pull"
    try:
        answer = client.request("GET", f"{settings.registry_token_path}?{scope}", dict, attempts=1)
        if answer.status != 200:
            return False
        token = Token(str(json.loads(answer.body)["token"]), 1, "")
        return _exists_and_allowed(check_pull(client, image, token))
    except (ProviderError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _exists(client: Client, image: Image, token: Token) -> bool | None:
    headers = {"authorization": f"Bearer {token.text}"}
    target = f"/v2/{image.repository}/tags/list?n=1"
    try:
        status = client.request("GET", target, lambda: headers, attempts=1).status
    except ProviderError:
        return None
    return {200: True, 404: False}.get(status)


def _our_namespace(principal: Principal, context: PullContext) -> str | None:
    """The tenancy's Object Storage namespace, which its repositories' names begin with.

    ``GET https://objectstorage.<region>.<realm domain>/n`` returns it (docs.oracle.com, GetNamespace).
    None without an answer, or if an image's name cannot have it: it becomes part of a command.
    """
    if context.instance is None:
        return None
    where = context.instance.where
    origin = Origin("https", f"objectstorage.{where.region}.{where.realm_domain}", 443)
    signer = principal.signer
    try:
        answer = new_client(origin, context.environ).request(
            "GET", "/n", lambda: signer.sign_get("/n", origin.netloc), attempts=1
        )
        name = json.loads(answer.body) if answer.status == 200 else None
    except (ProviderError, ValueError, RecursionError):
        return None
    return name if isinstance(name, str) and _NAMESPACE.fullmatch(name) else None


def judge_pull(
    image: Image, repository: Repository, may_read: tuple[str, ...], ocids: Ocids
) -> Step:
    """Interpret the registry's answers. No I/O."""
    check = repository.check
    name = f"{image.host}/{image.repository}"
    action = f"HEAD /v2/{image.repository}/manifests/{image.reference} at {image.host}"
    if check.status == "denied":
        return _judge_denied(image, repository, may_read, ocids, action)
    absent = repository.exists is False or check.code == "NAME_UNKNOWN"
    if check.status == "unclear" and not absent:
        return steps.failed(
            PULL,
            "pull-unclear",
            action,
            f"{name}: {check.text}",
            "Run this check again. A 404 without the code MANIFEST_UNKNOWN has two possible causes: the"
            " image does not exist, or this principal has no permission to see it.",
        )
    if repository.public:
        return steps.ok(
            PULL,
            action,
            f"everybody can pull {name}: it is public, and says nothing about policies",
            "To check the policies, name a private image.",
        )
    if _exists_and_allowed(check):
        return steps.ok(PULL, action, f"{name} can be pulled")
    if absent:
        return steps.failed(
            PULL,
            "no-such-repository",
            action,
            f"{name} does not exist, or this principal cannot see it; the credentials are not the cause",
            "Correct the image's name, or push the image. To list the tenancy's repositories:",
            list_repositories(ocids),
        )
    if not (image.tag or image.digest):
        result = f"{name} can be pulled; it has no tag 'latest'. To check another tag, name it"
        return steps.ok(PULL, action, result)
    return steps.failed(
        PULL,
        "no-such-tag",
        action,
        f"{name} can be pulled, but has no {image.reference}; the credentials are not the cause",
        "Correct the tag or digest, or push the image.",
    )


def _judge_denied(
    image: Image, repository: Repository, may_read: tuple[str, ...], ocids: Ocids, action: str
) -> Step:
    check = repository.check
    result = f"{image.host}/{image.repository}: {check.text.partition(';')[0]}"
    if check.code == "FREE_TIER_NOT_SUPPORTED":
        return steps.failed(
            PULL,
            "free-tier",
            action,
            result,
            "This tenancy's tier or region has no registry, and a policy cannot change that. Upgrade the"
            " account, or keep the image in another registry.",
        )
    if check.http_status == 401:
        return steps.failed(
            PULL,
            "token-not-accepted",
            action,
            result,
            "The registry issued this token a moment ago and rejects it now, so policies are not the cause."
            " Is the image's registry in this node's realm? Does a proxy change requests? If the problem"
            " persists, give the opc-request-id to Oracle support.",
        )
    namespace, ours = image.repository.partition("/")[0], repository.our_namespace
    if ours is not None and ours != namespace:
        return steps.failed(
            PULL,
            "another-namespace",
            action,
            f"{result}; this tenancy's namespace is {ours!r}, not {namespace!r}",
            "If the image belongs to this tenancy, correct its name:",
            f"  {image.host}/{ours}/{image.repository.partition('/')[2] or namespace}",
            *other_tenancy(ocids),
            _PULL_SECRETS,
        )
    question = (
        f"Is {namespace!r} this tenancy's Object Storage namespace? The check could not find out. To see"
        " the namespace:",
        "  oci os ns get --auth instance_principal",
    )
    return steps.failed(
        PULL,
        "repository-denied",
        action,
        result,
        *may_read,
        *(question if ours is None else ()),
        f"If a policy covers single compartments, make sure that one of them has the repository"
        f" {image.repository!r}: OCIR also denies a repository that does not exist. To list them:",
        list_repositories(ocids),
        _PULL_SECRETS,
    )
