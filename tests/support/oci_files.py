"""An OCI config file with a user's profile, and the key and the session token that it names."""

from dataclasses import dataclass
from pathlib import Path

from tests.cloud.model import ApiKey, Session


@dataclass(frozen=True, slots=True)
class OciFiles:
    """The files config, key and session in one directory."""

    folder: Path

    def write(self, user: ApiKey | Session, profile: str = "WORK", **more: str) -> dict[str, str]:
        """Write the files for one user. Returns the settings, which are always the same."""
        (self.folder / "key").write_text(user.private_pem)
        values = {"tenancy": user.tenancy, "region": "eu-frankfurt-1"}
        values |= {"key_file": str(self.folder / "key"), **more}
        if isinstance(user, Session):
            (self.folder / "session").write_text(user.token)
            values["security_token_file"] = str(self.folder / "session")
        else:
            values |= {"user": user.user, "fingerprint": user.fingerprint}
            if user.passphrase:
                values = {"pass_phrase": user.passphrase, **values}
        lines = [f"{name}={value}" for name, value in values.items()]
        config = self.folder / "config"
        config.write_text("\n".join(["[OTHER]", "", f"[{profile}]", *lines, ""]))
        return {
            "OCIR_AUTH_METHOD": "USER_PRINCIPAL",
            "OCI_CONFIG_FILE": str(config),
            "OCI_CLI_PROFILE": profile,
        }
