"""Where measured.c starts the source: it sets what PyInstaller's bootloader and the freeze set."""

import os
import sys
from importlib.metadata import version
from types import ModuleType

for name in ("COVERAGE_PROCESS_CONFIG", "LD_LIBRARY_PATH"):
    os.environ.pop(name, None)
program = os.environ["_PYI_ARCHIVE_FILE"]
sys.argv[0] = os.environ.pop("MEASURED_NAME")
sys.executable = program
vars(sys).update(frozen=True, _MEIPASS=f"{os.path.dirname(program)}/_internal")
build = ModuleType("provider_build")
vars(build).update(COMMIT="measured", LIBC_FLOOR="GLIBC_2.28")
vars(build).update(OCI=version("oci"), CRYPTOGRAPHY=version("cryptography"))
sys.modules[build.__name__] = build

from provider.__main__ import main  # noqa: E402 # the lines above are what it looks at

main()
