"""May the principal pull this image, and if not, why not?"""

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
from provider.commands.check.step import Step
from provider.errors import ProviderError, RegistryUnreachable
from provider.image import Image
from provider.net.client import Client, Network
from provider.net.deadline import Deadline
from provider.net.http import Origin
from provider.ocir.credentials import PullCheck, PullStatus
from provider.ocir.exchange import registry_origin
from provider.ocir.pull_check import check_pull
from provider.ocir.token import Token
from provider.settings import INSTANCE_PRINCIPAL, WORKLOAD_IDENTITY, Settings

PULL: Final = "pull"
_NAMESPACE: Final = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*", re.A)
_SECONDS: Final = 15.0
_PULL_SECRETS: Final = (
    "imagePullSecrets are not the matter: the kubelet tries a pod's own first, and then these"
    " credentials all the same."
)


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, and how. ``principal`` and ``token`` are None where an earlier step failed."""

    principal: Principal | None
    token: Token | None
    settings: Settings
    environ: Mapping[str, str]
    instance: Instance | None

    def client(self, origin: Origin) -> Client:
        """A client with a deadline of its own."""
        return Network(Deadline(_SECONDS), self.environ).client(origin, RegistryUnreachable)


@dataclass(frozen=True, slots=True)
class Repository:
    """What OCI says of a repository: to our token, to everybody, and of its namespace.

    ``public``, ``exists`` and ``our_namespace`` are None where that was not asked or not told.
    """

    check: PullCheck
    public: bool | None = None
    exists: bool | None = None
    our_namespace: str | None = None


def try_pull(image: Image, asker: Asker) -> Step:
    """May the principal pull this image, and may everybody?"""
    if asker.token is None or asker.principal is None:
        return steps.needs(PULL, TOKEN)
    client = asker.client(registry_origin(image.host, asker.settings))
    check = check_pull(client, image, asker.token)
    public = exists = namespace = None
    if _is_there(check):
        public = _is_public(client, image, asker.settings)
    elif check.status is PullStatus.ALLOWED:
        exists = _exists(client, image, asker.token)
    elif check.status is PullStatus.DENIED:
        namespace = _our_namespace(asker.principal, asker)
    by_instance = asker.settings.ocir_auth_method == INSTANCE_PRINCIPAL
    ocids = asker.instance.ocids if asker.instance else Ocids()
    if asker.settings.ocir_auth_method == WORKLOAD_IDENTITY:
        may_read = (*workload_may_read(ocids), EXPERIMENTAL)
    else:
        may_read = node_may_read(ocids) if by_instance else user_may_read(ocids)
    return judge_pull(image, Repository(check, public, exists, namespace), may_read, ocids)


def _is_there(check: PullCheck) -> bool:
    """Report whether the image exists and may be pulled."""
    return check.status is PullStatus.ALLOWED and check.code is None


def _is_public(client: Client, image: Image, settings: Settings) -> bool | None:
    """Does the image come without credentials too, the way a container runtime would ask?"""
    scope = f"service={image.host}&scope=repository:{image.repository}:pull"
    try:
        answer = client.request("GET", f"{settings.registry_token_path}?{scope}", dict, attempts=1)
        if answer.status != 200:
            return False
        token = Token(str(json.loads(answer.body)["token"]), 1, "")
        return _is_there(check_pull(client, image, token))
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


def _our_namespace(principal: Principal, asker: Asker) -> str | None:
    """The tenancy's Object Storage namespace, in which its repositories are.

    ``GET https://objectstorage.<region>.<realm domain>/n`` tells it of the asker's own tenancy
    (docs.oracle.com, GetNamespace). None when it does not, or when the name cannot stand in an image:
    it becomes part of a command to paste.
    """
    if asker.instance is None:
        return None
    where = asker.instance.where
    origin = Origin("https", f"objectstorage.{where.region}.{where.realm_domain}", 443)
    signer = principal.signer
    try:
        answer = asker.client(origin).request(
            "GET", "/n", lambda: signer.sign_get("/n", origin.netloc), attempts=1
        )
        name = json.loads(answer.body) if answer.status == 200 else None
    except (ProviderError, ValueError, RecursionError):
        return None
    return name if isinstance(name, str) and _NAMESPACE.fullmatch(name) else None


def judge_pull(
    image: Image, repository: Repository, may_read: tuple[str, ...], ocids: Ocids
) -> Step:
    """What the registry's answers mean. Pure."""
    check = repository.check
    name = f"{image.host}/{image.repository}"
    tried = f"HEAD /v2/{image.repository}/manifests/{image.reference} at {image.host}"
    named = image.tag or image.digest
    if check.status is PullStatus.DENIED:
        return _judge_denied(image, repository, may_read, ocids, tried)
    absent = repository.exists is False or check.code == "NAME_UNKNOWN"
    if check.status is PullStatus.UNCLEAR and not absent:
        return steps.failed(
            PULL,
            "pull-unclear",
            tried,
            f"{name}: {check.text}",
            "Run this check once more. A 404 without the code MANIFEST_UNKNOWN does not tell what does not"
            " exist from what this principal may not see.",
        )
    if repository.public:
        return steps.ok(
            PULL,
            tried,
            f"{name} may be pulled, but by everybody: it is public, and proves nothing of policies",
            "Name a private image to check those.",
        )
    if _is_there(check):
        return steps.ok(PULL, tried, f"{name} may be pulled")
    if absent:
        return steps.failed(
            PULL,
            "no-such-repository",
            tried,
            f"{name} does not exist, as far as this principal may see; credentials are not the matter",
            "Correct the image's name, or push it. To list the tenancy's repositories:",
            list_repositories(ocids),
        )
    if not named:
        came = f"{name} may be pulled; it has no tag 'latest', name the tag to check that too"
        return steps.ok(PULL, tried, came)
    return steps.failed(
        PULL,
        "no-such-tag",
        tried,
        f"{name} may be pulled, but has no {image.reference}; credentials are not the matter",
        "Correct the tag or digest, or push it.",
    )


def _judge_denied(
    image: Image, repository: Repository, may_read: tuple[str, ...], ocids: Ocids, tried: str
) -> Step:
    check = repository.check
    came = f"{image.host}/{image.repository}: {check.text.partition(';')[0]}"
    if check.code == "FREE_TIER_NOT_SUPPORTED":
        return steps.failed(
            PULL,
            "free-tier",
            tried,
            came,
            "This tenancy's tier or region has no registry, and no policy changes that: upgrade the"
            " account, or keep the image in another registry.",
        )
    if check.http_status == 401:
        return steps.failed(
            PULL,
            "token-not-accepted",
            tried,
            came,
            "The registry gave this token a moment ago and does not accept it: policies are not the"
            " matter. Is the image's registry one of this node's realm, and does a proxy change requests?"
            " If it lasts, give Oracle support the opc-request-id.",
        )
    namespace, ours = image.repository.partition("/")[0], repository.our_namespace
    if ours is not None and ours != namespace:
        return steps.failed(
            PULL,
            "another-namespace",
            tried,
            f"{came}; {namespace!r} is not this tenancy's namespace, which is {ours!r}",
            "If the image is this tenancy's, correct its name:",
            f"  {image.host}/{ours}/{image.repository.partition('/')[2] or namespace}",
            *other_tenancy(ocids),
            _PULL_SECRETS,
        )
    question = (
        f"Is {namespace!r} this tenancy's Object Storage namespace? That could not be found out. It is:",
        "  oci os ns get --auth instance_principal",
    )
    return steps.failed(
        PULL,
        "repository-denied",
        tried,
        came,
        *may_read,
        *(question if ours is None else ()),
        f"If a policy covers single compartments: is there a repository {image.repository!r} in one of them?"
        " One that does not exist is denied too:",
        list_repositories(ocids),
        _PULL_SECRETS,
    )
