"""A stand-in for the kubelet, as strict about its flags, its config and its credential providers.

/etc/kubernetes/behavior.json says how it misbehaves if it has the credential provider flags:
{"exit_after": seconds}, {"healthz": "hangs" | "fails" | "nothing"}, {"kills": "containers"}. With
{"always": true} it misbehaves without the flags, too.
"""

import http.server
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

import yaml

PROVIDER_CONFIG = "image-credential-provider-config"
BIN_DIR = "image-credential-provider-bin-dir"
FLAGS = {
    "bootstrap-kubeconfig", "config", "container-runtime-endpoint", "healthz-bind-address",
    "healthz-port", "hostname-override", "kubeconfig", "node-labels", "v", PROVIDER_CONFIG, BIN_DIR,
}  # fmt: skip
CONFIG_FIELDS = {"apiVersion", "kind", "healthzPort", "healthzBindAddress", "clusterDNS"}
PROVIDER_FIELDS = {"name", "apiVersion", "matchImages", "defaultCacheDuration", "env", "args"}


def fail(message: str) -> NoReturn:
    print(f'E1124 10:00:00.000000       1 run.go:72] "command failed" err="{message}"', flush=True)
    sys.exit(1)


def flags(words: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            fail(f"unknown command {word}")
        name, equals, value = word[2:].partition("=")
        name = name.replace("_", "-")  # pflag's WordSepNormalizeFunc
        if name not in FLAGS:
            fail(f"failed to parse kubelet flag: unknown flag: --{name}")
        if not equals:
            if not rest:
                fail(f"failed to parse kubelet flag: flag needs an argument: --{name}")
            value = rest.pop(0)
        found[name] = value
    return found


def document(path: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        fail(f"failed to load {path}: {type(error).__name__}")
    if not isinstance(content, dict):
        fail(f"{path} is not an object")
    return content


def register_providers(path: str | None, folder: str | None) -> None:
    if not path or not folder:
        return  # it has no providers
    content = document(path)
    if content.get("kind") != "CredentialProviderConfig" or not content.get("providers"):
        fail("Failed to register CRI auth plugins: no kind or no providers")
    for provider in content["providers"]:
        if unknown := set(provider) - PROVIDER_FIELDS:
            fail(
                f"Failed to register CRI auth plugins: strict decoding error: unknown field {unknown}"
            )
        if not {"name", "apiVersion", "matchImages", "defaultCacheDuration"} <= set(provider):
            fail("Failed to register CRI auth plugins: Required value")
        program = Path(folder, provider["name"])
        if not program.is_file() or not os.access(program, os.X_OK):
            fail(
                f"Failed to register CRI auth plugins: plugin binary executable {program} did not exist"
            )


def kill_containers() -> None:
    for process in Path("/proc").glob("[0-9]*"):
        if "/kubepods" in (process / "cgroup").read_text():
            os.kill(int(process.name), signal.SIGKILL)


def main() -> None:
    if sys.argv[1:] == ["--version"]:
        print("Kubernetes v1.33.1")
        return
    given = flags(sys.argv[1:])
    config = document(given["config"]) if "config" in given else {}
    if unknown := set(config) - CONFIG_FIELDS:
        fail(f"strict decoding error: unknown field {unknown}")
    register_providers(given.get(PROVIDER_CONFIG), given.get(BIN_DIR))
    path = Path("/etc/kubernetes/behavior.json")
    behavior = json.loads(path.read_text()) if path.exists() else {}
    if PROVIDER_CONFIG not in given and not behavior.get("always"):
        behavior = {}
    if behavior.get("kills") == "containers":
        kill_containers()
    if "exit_after" in behavior:
        last = (
            'E1124 10:00:00.000000       1 standin.go:1] "the stand-in ends" \x1b[31mred\x07\u202e'
        )
        threading.Timer(
            behavior["exit_after"], lambda: (print(last, flush=True), os._exit(1))
        ).start()
    port = int(given.get("healthz-port", config.get("healthzPort", 10248)))
    address = given.get("healthz-bind-address", config.get("healthzBindAddress", "127.0.0.1"))
    if port == 0 or behavior.get("healthz") == "nothing":
        while True:
            time.sleep(3600)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if behavior.get("healthz") == "hangs":
                time.sleep(3600)
            ok = self.path == "/healthz" and behavior.get("healthz") != "fails"
            self.send_response(200 if ok else 500)
            self.end_headers()
            self.wfile.write(b"ok" if ok else b"no")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    print('I1124 10:00:00.000000       1 server.go:1] "Started kubelet"', flush=True)
    http.server.ThreadingHTTPServer((address, port), Handler).serve_forever()


if __name__ == "__main__":
    main()
