"""The licenses of the software in this program."""

import os
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution

OWN_NAME = "oke-credential-provider-for-ocir"
# Next to the frozen program's modules. packaging/provider.spec writes it.
BUNDLED = "licenses.txt"


def licenses() -> str:
    """All licenses as one text: those in the frozen program, or those of the installed packages."""
    contents = getattr(sys, "_MEIPASS", None)
    if contents:
        with open(os.path.join(contents, BUNDLED), encoding="utf-8") as file:
            return file.read()
    return as_text((d.name, d.version, license_of(d)) for d in _requirements())


def as_text(parts: Iterable[tuple[str, str, str]]) -> str:
    """Format (name, version, license) under headings, sorted by name."""
    sections = (
        f"{'=' * 80}\n{name} {version}\n{'=' * 80}\n\n{text.strip()}\n"
        for name, version, text in sorted(parts, key=lambda part: part[0].lower())
    )
    return "\n".join(sections)


def license_of(package: Distribution) -> str:
    """The license files of an installed package. Raises LookupError if it has none."""
    texts = [
        file.read_text().strip()
        for file in sorted(package.files or (), key=str)
        if ".dist-info" in file.parts[0] and _is_license("/".join(file.parts[1:]))
    ]
    if not texts:
        raise LookupError(f"{package.name} has no license file")
    return "\n\n".join(texts)


def _is_license(name: str) -> bool:
    return name.startswith("licenses/") or name.upper().startswith(
        ("LICENSE", "LICENCE", "COPYING", "NOTICE", "THIRD_PARTY")
    )


def _requirements() -> Iterator[Distribution]:
    """The packages that the installed program requires, directly and indirectly."""
    import re
    from importlib.metadata import PackageNotFoundError

    seen = set()
    pending = [OWN_NAME]
    while pending:
        try:
            package = distribution(pending.pop())
        except PackageNotFoundError:  # for another platform, or an extra
            continue
        if package.name not in seen:
            seen.add(package.name)
            yield package
            for requirement in package.requires or ():
                match = re.match(r"[\w.-]+", requirement)
                if match and "extra ==" not in requirement:
                    pending.append(match[0])
