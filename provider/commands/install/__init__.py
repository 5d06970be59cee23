"""``install`` and ``uninstall``: the unpacked program on a node, and the switch between its versions.

::

    /usr/local/lib/oke-credential-provider/           the prefix
        0.1.0/bin/oke-credential-provider             a folder for each version (unpack.py)
        installed.json                                what lies elsewhere, for uninstall
    /usr/local/bin/oke-credential-provider            a link into the prefix: renaming it switches
    /usr/local/bin/credential-provider-oke            a link to that, by the Go provider's name
    /etc/kubernetes/credential-provider-config.yaml

A kubelet whose provider or config is missing or broken ends, and its node is lost. So all that can
fail comes before the switch, and what may be in use is only replaced by renaming something whole.
"""

from provider.commands.install.install import install
from provider.commands.install.places import Places
from provider.commands.install.uninstall import uninstall

__all__ = ["Places", "install", "uninstall"]
