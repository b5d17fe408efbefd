"""The Compose files against the specification's schema, and against the script they call."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

DOCKER = Path(__file__).resolve().parents[1] / "docker"
FILES = sorted(DOCKER.glob("compose*.yaml"))
SCRIPT = (DOCKER / "federation.sh").read_text()
SERVICES = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
SUPERNODES = [name for name in SERVICES if name.startswith("supernode-")]
RUN_ONLY = {
    *("MALICIOUS", "STRATEGY", "ATTACK", "DATASET", "DATA_DIR", "ROUNDS", "SEED"),
    *("ROUND_TIMEOUT", "JOIN_TIMEOUT", "RUN_CONFIG", "RESUME"),
}


def check(path: Path) -> subprocess.CompletedProcess[str]:
    """Validate a file with the schema that check-jsonschema brings along."""
    command = [sys.executable, "-m", "check_jsonschema"]
    return subprocess.run(
        [*command, "--builtin-schema", "vendor.compose-spec", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_compose_specification_accepts(path):
    done = check(path)
    assert done.returncode == 0, done.stdout


def test_the_schema_would_have_found_a_mistake(tmp_path):
    spoilt = tmp_path / "compose.yaml"
    text = (DOCKER / "compose.yaml").read_text().replace("service_healthy", "service_health")
    spoilt.write_text(text)
    assert check(spoilt).returncode == 1


def test_every_command_is_a_role_of_the_script():
    roles = set(re.findall(r"^(\w+)\)$", SCRIPT, re.MULTILINE))
    assert {"certificates", "superlink", "enrol", "supernode", "run"} <= roles
    for name, service in SERVICES.items():
        (role,) = service["command"]
        assert role in roles, name
        if "healthcheck" in service:
            assert service["healthcheck"]["test"][-1] in roles, name


def test_every_setting_of_the_script_can_be_given_and_has_its_default():
    defaults = dict(re.findall(r"^: \"\$\{(\w+):=([^}]*)\}\"", SCRIPT, re.MULTILINE))
    environment = {
        name: value
        for service in ("run", "supernode-0", "certificates")
        for name, value in SERVICES[service]["environment"].items()
    }
    for name in set(defaults) - {"APP", "FLWR_HOME", "LISTEN", "NODE_PORT", "RUNS"}:
        assert name in environment, name
        offered = re.fullmatch(r"\$\{(\w+):-([^}]*)\}", environment[name])
        # Compose 1 knows no default within a default: the script fills in what is left empty.
        told = "" if defaults[name].startswith("$") else defaults[name]
        if offered:
            assert offered.groups() == (name, told), name


def test_no_default_holds_another():
    assert not re.search(r":-[^}]*\$\{", (DOCKER / "compose.yaml").read_text())


def settled(**variables: str) -> dict[str, str]:
    """Return each service as Compose would start it, and so whether it starts it anew."""

    def value(found: re.Match[str]) -> str:
        name, _, default = found.group(1).partition(":-")
        return variables.get(name) or default

    pattern = re.compile(r"\$\{((?:[^${}]|\$\{[^{}]*\})*)\}")
    return {name: pattern.sub(value, yaml.safe_dump(one)) for name, one in SERVICES.items()}


@pytest.mark.parametrize("name", sorted(RUN_ONLY - {"DATA_DIR"}))
def test_another_run_with_other_settings_starts_nobody_else_anew(name):
    before, after = settled(), settled(**{name: "other"})
    assert [service for service in before if before[service] != after[service]] == ["run"]


def test_what_a_client_insists_on_is_its_own_and_not_the_runs():
    before, after = settled(), settled(ENCRYPTION="xmkckks")
    assert [name for name in before if before[name] != after[name]] == SUPERNODES


def test_the_images_for_gpus_and_for_processors_bear_different_names():
    gpu = yaml.safe_load((DOCKER / "compose.gpu.yaml").read_text())["services"]
    assert set(gpu) == set(SERVICES)
    images = {name: (one["image"], one["build"]["args"]["TORCH"]) for name, one in gpu.items()}
    assert set(images.values()) == {("fedguard:${TAG:-latest}-cuda", "cuda")}
    plain = {(one["image"], one["build"]["args"]["TORCH"]) for one in SERVICES.values()}
    assert plain == {("fedguard:${TAG:-latest}", "cpu")}
    with_devices = [name for name, one in gpu.items() if "deploy" in one]
    assert with_devices == ["superlink", *SUPERNODES]


def mounts(service: dict[str, object]) -> dict[str, str]:
    """Return what a service mounts: source to place."""
    pairs = [
        volume.removeprefix("${DATA_DIR:-nothing}").rsplit(":", 2) for volume in service["volumes"]
    ]
    return {pair[0]: next(p for p in pair[1:] if p.startswith("/")) for pair in pairs if pair[0]}


def holders(source: str) -> list[str]:
    return [n for n, s in SERVICES.items() if source in mounts({"volumes": [], **s})]


def test_only_those_who_need_a_secret_see_it():
    assert holders("authority") == ["certificates"]
    assert holders("superlink") == ["certificates", "superlink"]
    assert holders("registrar") == ["certificates", "registrar"]
    assert holders("members") == ["certificates"]
    assert holders("aggregator") == ["certificates", "superlink"]


def test_no_supernode_sees_anothers_private_key():
    assert len(SUPERNODES) == 5
    for place, name in enumerate(SUPERNODES):
        assert holders(name) == ["certificates", name]
        own = {k: v for k, v in mounts(SERVICES[name]).items() if "public" not in k}
        assert own == {name: f"/federation/supernodes/{place}"}
        assert SERVICES[name]["environment"]["PARTITION"] == str(place)
        assert not SERVICES[name].get("privileged")
        assert SERVICES[name]["cap_drop"] == ["ALL"]


def test_more_supernodes_are_like_the_five_each_with_a_volume_of_its_own(tmp_path):
    done = subprocess.run(
        [sys.executable, DOCKER / "supernodes.py", "7"], capture_output=True, text=True, check=True
    )
    (tmp_path / "compose.more.yaml").write_text(done.stdout)
    assert check(tmp_path / "compose.more.yaml").returncode == 0
    more = yaml.safe_load(done.stdout)
    assert [n for n in more["services"] if n.startswith("s")] == ["supernode-5", "supernode-6"]
    for place in (5, 6):
        node = more["services"][f"supernode-{place}"]
        assert node["environment"]["PARTITION"] == str(place)
        assert mounts(node) == {
            "public": "/federation/public",
            f"supernode-{place}": f"/federation/supernodes/{place}",
        }
        like = {
            k: v for k, v in SERVICES["supernode-0"].items() if k not in ("volumes", "environment")
        }
        assert like == {k: v for k, v in node.items() if k not in ("volumes", "environment")}
    assert set(more["volumes"]) == {"supernode-5", "supernode-6"}
    for number in ("5", "65", "many"):
        refused = subprocess.run(
            [sys.executable, DOCKER / "supernodes.py", number], capture_output=True, text=True
        )
        assert refused.returncode == 1
        assert refused.stderr.count("\n") == 1


def test_only_the_aggregator_reaches_the_registrar():
    on_it = [n for n, s in SERVICES.items() if "registry" in s.get("networks", [])]
    assert on_it == ["registrar", "superlink"]
    assert SERVICES["registrar"]["networks"] == ["registry"]


def test_whatever_the_image_copies_reaches_the_builder():
    lines = (DOCKER / "Dockerfile").read_text().splitlines()
    copies = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--" not in line]
    allowed = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    for name in {name for names in copies for name in names}:
        assert (DOCKER.parent / name).exists(), name
        assert f"!{name}" in allowed or f"!{name}/**" in allowed, name
    assert any(line.startswith("USER ") for line in lines)
    assert not any(line.startswith("# syntax") for line in lines)


@pytest.mark.parametrize("name", sorted(path.name for path in DOCKER.glob("*.sh")))
def test_scripts_parse_and_can_be_run(name):
    assert subprocess.run(["bash", "-n", DOCKER / name]).returncode == 0
    assert (DOCKER / name).stat().st_mode & 0o111


def test_certificates_are_valid_for_the_host_and_are_not_made_twice(tmp_path):
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    command = [sys.executable, str(DOCKER / "certificates.py"), str(tmp_path)]
    subprocess.run([*command, "--supernodes", "1", "--host", "superlink"], check=True)
    first = (tmp_path / "superlink" / "server.pem").read_bytes()
    subprocess.run([*command, "--supernodes", "2", "--host", "superlink"], check=True)
    assert (tmp_path / "superlink" / "server.pem").read_bytes() == first
    server = x509.load_pem_x509_certificate(first)
    authority = x509.load_pem_x509_certificate((tmp_path / "public" / "ca.crt").read_bytes())
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["superlink", "localhost"]
    for place in (0, 1):
        key = load_ssh_public_key((tmp_path / "public" / f"{place}.pub").read_bytes())
        assert key.curve.name == "secp384r1"
        assert (tmp_path / "supernodes" / str(place) / "node.key").stat().st_mode & 0o777 == 0o600


def test_a_renewed_certificate_is_a_new_one_of_the_same_authority(tmp_path):
    from cryptography import x509

    command = [sys.executable, str(DOCKER / "certificates.py"), str(tmp_path), "--supernodes", "1"]
    subprocess.run([*command, "--host", "superlink"], check=True)
    paths = ["superlink/server.pem", "superlink/server.key", "public/ca.crt", "authority/ca.key"]
    paths += ["supernodes/0/node.key", "public/roster.json"]
    before = {name: (tmp_path / name).read_bytes() for name in paths}
    subprocess.run([*command, "--host", "superlink", "--renew"], check=True)
    changed = [name for name in paths if (tmp_path / name).read_bytes() != before[name]]
    assert changed == ["superlink/server.pem", "superlink/server.key"]
    old, new = (
        x509.load_pem_x509_certificate(text)
        for text in (
            before["superlink/server.pem"],
            (tmp_path / "superlink/server.pem").read_bytes(),
        )
    )
    authority = x509.load_pem_x509_certificate(before["public/ca.crt"])
    new.verify_directly_issued_by(authority)
    assert new.serial_number != old.serial_number
    names = x509.SubjectAlternativeName
    assert new.extensions.get_extension_for_class(names) == old.extensions.get_extension_for_class(
        names
    )
