"""The generated parts of the README. ``--write`` updates them."""

import re
import sys
from pathlib import Path

from provider.commands.cli import commands
from provider.errors import ProviderError
from provider.settings import SETTINGS, Settings

README = Path(__file__).parents[2] / "README.md"


def parts() -> dict[str, str]:
    """Return the text of each part, by name."""
    return {"settings": _settings(), "errors": _errors(), "commands": _commands()}


def parts_of(text: str) -> dict[str, str]:
    """Return the parts that are in a README."""
    return {
        name: match[1].strip("\n")
        for name in parts()
        if (match := re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, re.DOTALL))
    }


def _settings() -> str:
    rows = ["| environment | YAML key | default | allowed | meaning |", "|---|---|---|---|---|"]
    for key in SETTINGS:
        default = getattr(Settings(), key.field)
        shown = {True: "enabled", None: "", (): ""}.get(default, default)
        shown = f"`{shown:g}`" if isinstance(shown, float) else f"`{shown}`" if shown else ""
        rows.append(f"| `{key.env}` | `{key.yaml}` | {shown} | {key.allowed} | {key.meaning} |")
    return "\n".join(rows)


def _errors() -> str:
    rows = ["| code | exit code | what failed | what to do |", "|---|---|---|---|"]
    kinds: list[type[ProviderError]] = [*ProviderError.__subclasses__(), ProviderError]
    for kind in sorted(kinds, key=lambda kind: kind.exit_code):
        what = (kind.__doc__ or "").split("\n", 1)[0]
        what = "A bug in this program." if kind is ProviderError else what
        rows.append(f"| `{kind.code}` | {kind.exit_code} | {what} | {kind.default_hint} |")
    return "\n".join(rows)


def _commands() -> str:
    rows = ["| command | what it does |", "|---|---|"]
    rows += [
        f"| `{name}` | {c.get_short_help_str(limit=200)} |"
        for name, c in sorted(commands.commands.items())
    ]
    return "\n".join(rows)


def main() -> int:
    """Update the README, or report whether it is up to date."""
    text = README.read_text()
    if "--write" in sys.argv:
        for name, part in parts().items():
            before, start, rest = text.partition(f"<!-- {name} -->\n")
            _, end, after = rest.partition(f"<!-- /{name} -->")
            text = f"{before}{start}{part}\n{end}{after}"
        README.write_text(text)
    return 0 if parts_of(text) == parts() else 1


if __name__ == "__main__":
    sys.exit(main())
