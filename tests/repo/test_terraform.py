"""The Terraform examples: structure, names, and agreement with cloud-init.sh. Terraform does not run."""

import re

import pytest

from provider import __version__
from tests.support.node import EXAMPLES, with_variables

FILES = {path.name: path.read_text() for path in EXAMPLES.glob("*.tf")}
COMMON, NATIVE, MODULE = "terraform-common.tf", "terraform-native.tf", "terraform-oci-oke.tf"
SCRIPT = (EXAMPLES / "cloud-init.sh").read_text()
CLOSING = {"(": ")", "[": "]", "{": "}"}

# Arguments of oracle/oci 8.28.0 (website/docs/r/*.html.markdown), "!" if they are required.
ARGUMENTS = {
    "oci_identity_dynamic_group": {
        "": "compartment_id! description! matching_rule! name! defined_tags freeform_tags"
    },
    "oci_identity_policy": {
        "": "compartment_id! description! name! statements! defined_tags freeform_tags version_date"
    },
    "oci_containerengine_node_pool": {
        "": "cluster_id! compartment_id! name! node_shape! defined_tags freeform_tags"
        " initial_node_labels kubernetes_version network_launch_type node_config_details"
        " node_eviction_node_pool_settings node_metadata node_pool_cycling_details"
        " node_shape_config node_source_details primary_vnic secondary_vnics ssh_public_key",
        "node_shape_config": "memory_in_gbs ocpus",
        "node_source_details": "image_id! source_type! boot_volume_size_in_gbs",
        "node_config_details": "placement_configs! size! compute_cluster_id defined_tags"
        " freeform_tags is_pv_encryption_in_transit_enabled kms_key_id nsg_ids"
        " node_pool_pod_network_option_details",
        "placement_configs": "availability_domain! subnet_id! capacity_reservation_id"
        " fault_domains host_group_id preemptible_node_config",
        "node_pool_cycling_details": "cycle_modes is_node_cycling_enabled maximum_surge"
        " maximum_unavailable",
    },
}
META = {"provider", "depends_on"}  # Terraform's own


def without_text(hcl: str) -> str:
    """The HCL without comments, heredocs and the content of strings. Templates stay."""
    hcl = re.sub(r"<<-?(\w+)\n.*?^\s*\1$", '""', hcl, flags=re.MULTILINE | re.DOTALL)
    strings = re.compile(r'"(?:\\.|\$\{(?:"[^"]*"|[^"}])*\}|[^"\\])*"')
    hcl = strings.sub(lambda text: f'"{"".join(re.findall(r"[$]{([^}]*)}", text[0]))}"', hcl)
    return re.sub(r"#.*", "", hcl)


def blocks(hcl: str, indent: str = "") -> dict[str, str]:
    """The blocks at this indentation: their headers and their contents."""
    found = re.findall(
        rf'^{indent}(\w[\w\s"-]*) {{\n(.*?)^{indent}}}$', hcl, flags=re.MULTILINE | re.DOTALL
    )
    headers = [header for header, _ in found]
    assert len(headers) == len(set(headers)), "a block is defined twice"
    return dict(found)


def names(header: str) -> list[str]:
    return re.findall(r'"([^"]+)"', header)


def all_blocks(kind: str) -> dict[str, str]:
    """The blocks of one kind in all files, by their names. The files can be used together."""
    found: dict[str, str] = {}
    for hcl in FILES.values():
        for header, content in blocks(hcl).items():
            if header.split()[0] == kind and names(header):
                name = ".".join(names(header))
                assert name not in found, f"{name} is defined in two files"
                found[name] = content
    return found


@pytest.mark.parametrize("name", FILES)
def test_brackets_match(name: str) -> None:
    waiting = []
    for character in without_text(FILES[name]):
        if character in CLOSING:
            waiting.append(CLOSING[character])
        elif character in CLOSING.values():
            assert waiting and waiting.pop() == character
    assert waiting == []


def test_each_variable_is_declared_and_used() -> None:
    used = {name for hcl in FILES.values() for name in re.findall(r"\bvar\.(\w+)", hcl)}
    assert used == all_blocks("variable").keys()


def test_each_local_value_is_defined() -> None:
    used = {name for hcl in FILES.values() for name in re.findall(r"\blocal\.(\w+)", hcl)}
    defined = set()
    for hcl in FILES.values():
        defined |= set(re.findall(r"^  (\w+) *=", blocks(hcl).get("locals", ""), re.MULTILINE))
    assert used == defined


@pytest.mark.parametrize("resource", all_blocks("resource"))
def test_each_argument_is_documented(resource: str) -> None:
    documented = ARGUMENTS[resource.partition(".")[0]]

    def check(block: str, content: str, indent: str) -> None:
        inner = blocks(content, indent)
        used = set(re.findall(rf"^{indent}(\w+) *=", content, re.MULTILINE)) | inner.keys()
        words = documented[block].split()
        assert used - META <= {word.rstrip("!") for word in words}
        assert {word[:-1] for word in words if word.endswith("!")} <= used
        for name, text in inner.items():
            check(name, text, indent + "  ")

    check("", all_blocks("resource")[resource], "  ")


def test_resources_exist() -> None:
    used = set(re.findall(r"\b(oci_\w+\.\w+)", "".join(FILES.values())))
    assert used <= all_blocks("resource").keys()


def test_versions_are_pinned() -> None:
    versions = re.findall(r'^\s+version\s+= "(.*)"$', FILES[COMMON] + FILES[MODULE], re.MULTILINE)
    assert len(versions) == 2  # provider, module
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in versions)
    assert all("required_providers" not in FILES[name] for name in (NATIVE, MODULE))


def default(variable: str) -> str:
    found = re.search(r'^  default += "?(.*?)"?$', all_blocks("variable")[variable], re.MULTILINE)
    assert found
    return found[1]


def test_the_defaults_are_those_of_the_script() -> None:
    assert default("provider_version") == __version__
    repository = re.findall(r"^REPOSITORY=(.*)$", SCRIPT, re.MULTILINE)[0]
    base_url = re.findall(r"^BASE_URL=(.*)$", SCRIPT, re.MULTILINE)[0]
    assert default("provider_base_url") == base_url.replace("$REPOSITORY", repository)
    assert default("provider_sha256") == '{ amd64 = "", arm64 = "" }'


def test_the_values_replace_lines_of_the_script() -> None:
    (values,) = re.findall(
        r"^  cloud_init_values = {\n(.*?)^  }$", FILES[COMMON], re.MULTILINE | re.DOTALL
    )
    replaced = re.findall(r"(\w+) += var\.", values)
    assert replaced == ["VERSION", "SHA256_AMD64", "SHA256_ARM64", "BASE_URL"]
    # Each is assigned once, at the start of a line, with nothing else on the line.
    with_variables(SCRIPT, **dict.fromkeys(replaced, "x"))
    assert 'file("${path.module}/cloud-init.sh")' in FILES[COMMON]


@pytest.mark.parametrize(
    ("variable", "good", "bad"),
    [
        ("provider_version", ["0.1.0", "10.20.30"], ["v0.1.0", "0.1", "1.2.3;id", "1.2.3\nid"]),
        (
            "provider_base_url",
            ["https://h/p/a-_b/n/ns/b/x/o/$VERSION", "file:///usr/local/share/x"],
            ["http://h/", "https://h/$(id)", "https://h/;id", "https://h/`id`", "https://h/ x"],
        ),
        ("ubuntu_kubernetes_version", ["1.34.1"], ["v1.34.1", "1.34", "1.34.1; id"]),
    ],
)
def test_values_cannot_add_commands_to_the_script(
    variable: str, good: list[str], bad: list[str]
) -> None:
    found = re.search(r'regex\("(.*)", var', all_blocks("variable")[variable])
    assert found
    # RE2's $ is the end of the text, Python's \Z.
    pattern = re.compile(re.sub(r"\$$", r"\\Z", found[1].replace("\\\\", "\\")))
    assert all(pattern.search(value) for value in good)
    assert not any(pattern.search(value) for value in bad)


def test_what_disable_default_cloud_init_drops_is_kept() -> None:
    """terraform-oci-oke 5.4.3, modules/workers/cloudinit.tf and cloudinit-ubuntu.sh.tftpl."""
    hcl = FILES[MODULE]
    assert hcl.count("disable_default_cloud_init = true") == 2
    for kept in ("timezone", "growpart", "resize_rootfs", "bootcmd", "oci-growfs"):
        assert kept in hcl
    ubuntu = hcl.split("ubuntu_part = {")[1].split("EOT\n")[1]
    assert "oci-oke-node-all-${var.ubuntu_kubernetes_version}" in ubuntu
    assert "oke bootstrap" not in ubuntu  # cloud-init.sh runs it once, with the flags
    # cloud-init runs scripts in the order of their file names: the package, then the join.
    order = re.findall(r'filename += "([\w.-]+)"', hcl)
    assert order == sorted(order) == ["10-defaults.yml", "50-oke-package.sh", "60-join.sh"]
