"""The network as one call sees it: its deadline, whom TLS trusts, by which proxy."""

from collections.abc import Mapping

from provider.errors import ProviderError
from provider.net.background import Background
from provider.net.deadline import Deadline
from provider.net.http import Client, Origin
from provider.net.tls import hashed_folder, proxy_for, tls_context


class Network:
    """Makes clients. CA certificates begin to load at once, since that takes a while."""

    def __init__(self, deadline: Deadline, environ: Mapping[str, str]) -> None:
        self.deadline = deadline
        self._environ = environ
        folder = hashed_folder(environ)
        first = Background(lambda: tls_context(environ, folder))
        self._trust = [lambda: first.result(deadline, "loading CA certificates")]
        if folder:
            self._trust.append(lambda: tls_context(environ))

    def client(self, origin: Origin, unreachable: type[ProviderError]) -> Client:
        """A client for one server. Raises BadSettings when the proxy's are wrong."""
        proxy = proxy_for(origin.host, self._environ) if origin.scheme == "https" else None
        return Client(origin, self.deadline, unreachable, self._trust, proxy)
