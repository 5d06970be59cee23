"""Changes to files that a crash at any moment leaves as they were or as they should be."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path

from provider.errors import CannotInstall
from provider.root_only import PATH, find_program, who_can_replace

_SELINUX = "/sys/fs/selinux/enforce"  # there when the kernel has a policy, enforced or not
_RESTORECON_SECONDS = 60.0


def refuse_replaceable(*paths: Path) -> None:
    """Raise CannotInstall when somebody else than root and this user could put other files there.
    Raises OSError.
    """
    for path in paths:
        if reason := who_can_replace(str(path), os.geteuid()):
            raise CannotInstall(
                f"{path} is not safe: {reason}; whoever can write there would own the node",
                "Choose a folder that root alone can write to, or give it and every folder above it to"
                " root alone: chown root:root, chmod go-w.",
            )


def missing_folders(path: Path) -> list[Path]:
    """``path`` and those above it that are not there, the uppermost first."""
    return [folder for folder in reversed([path, *path.parents]) if not folder.exists()]


def make_folders(path: Path) -> list[Path]:
    """Make what is missing of ``path``. Returns what was made. Raises OSError."""
    made = []
    for folder in missing_folders(path):
        with suppress(FileExistsError):  # another process was faster
            folder.mkdir()
            made.append(folder)
        sync(folder.parent)
    return made


def write_file(path: Path, text: str) -> None:
    """Put a file in place. Raises OSError, CannotInstall."""
    fresh = _fresh_name(path)
    with fresh.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    _switch(fresh, path)


def link(path: Path, to: str) -> None:
    """Put a symbolic link in place of whatever is at ``path``. Raises OSError, CannotInstall."""
    fresh = _fresh_name(path)
    fresh.symlink_to(to)
    _switch(fresh, path)


def keep(path: Path, kept: Path) -> None:
    """Give the file or link at ``path`` a second name. Raises OSError."""
    kept.unlink(missing_ok=True)
    os.link(path, kept, follow_symlinks=False)
    sync(path.parent)


def is_link_to(path: Path, to: str) -> bool:
    """True for a symbolic link with exactly this target."""
    return path.is_symlink() and os.readlink(path) == to


def sync(folder: Path) -> None:
    """Write the names in ``folder`` to the disk. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_tree(folder: Path) -> None:
    """``sync`` for ``folder`` and all folders in it. Raises OSError."""
    for inner, _, _ in os.walk(folder):
        sync(Path(inner))


def restore_labels(path: Path) -> None:
    """Give ``path``, and what is in it, the SELinux labels of the node's policy, where there is one.

    A new file has its folder's label, by which the kubelet may not be allowed to run it. Raises
    CannotInstall.
    """
    if not os.path.exists(_SELINUX):
        return
    program = find_program("restorecon")
    if program is None:
        raise CannotInstall(
            "SELinux is on, and there is no restorecon to label the files",
            "Install policycoreutils. A kubelet that may not run its provider does not start.",
        )
    try:
        subprocess.run(
            [program, "-R", str(path)],
            env={"PATH": PATH},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_RESTORECON_SECONDS,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()
        raise CannotInstall(f"restorecon failed on {path}: {said}") from error
    except subprocess.TimeoutExpired as error:
        raise CannotInstall(f"restorecon was not done with {path} in time") from error


def _fresh_name(path: Path) -> Path:
    """A name beside ``path``, free by now: installs of one prefix come one after the other."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    return fresh


def _switch(fresh: Path, path: Path) -> None:
    try:
        restore_labels(fresh)
        fresh.replace(path)
    except BaseException:
        with suppress(OSError):
            fresh.unlink()
        raise
    sync(path.parent)
