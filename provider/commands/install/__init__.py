"""``install`` and ``uninstall``: the unpacked program on a node, and the switch between its versions.

::

    /usr/local/lib/oke-credential-provider/           the prefix
        0.1.0/bin/oke-credential-provider             a directory for each version (layout.py)
        installed.json                                the record of what is elsewhere, for uninstall
    /usr/local/bin/oke-credential-provider            a link into the prefix: its rename is the switch
    /usr/local/bin/credential-provider-oke            a link to that link, unless it is the Go provider
    /etc/kubernetes/credential-provider-config.yaml

With ``--merge``, a config of others gets an entry, and keeps its old content as NAME.before-install.

The kubelet exits if its provider or config is missing or broken, and the node is lost. Therefore
every step that can fail comes before the switch. A file that may be in use is replaced only by the
rename of a complete file.
"""

from provider.commands.install.install import install
from provider.commands.install.paths import InstallOptions, InstallPaths
from provider.commands.install.uninstall import uninstall

__all__ = ["InstallOptions", "InstallPaths", "install", "uninstall"]
