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
    environment = SERVICES["run"]["environment"]
    for name in set(defaults) - {"APP", "FLWR_HOME", "LISTEN", "NODE_PORT", "RUNS"}:
        assert name in environment, name
        offered = re.fullmatch(r"\$\{(\w+):-([^}]*)\}", environment[name])
        if offered:
            assert offered.groups() == (name, defaults[name]), name


def test_only_those_who_need_a_secret_see_it():
    def mounts(service: str) -> set[str]:
        volumes = SERVICES[service].get("volumes", [])
        return {volume.rsplit("/", 1)[-1].split(":")[0] for volume in volumes}

    assert [name for name in SERVICES if "authority" in mounts(name)] == ["certificates"]
    assert [n for n in SERVICES if "superlink" in mounts(n)] == ["certificates", "superlink"]
    assert [n for n in SERVICES if "supernodes" in mounts(n)] == ["certificates", "supernode"]
    assert [n for n in SERVICES if "registrar" in mounts(n)] == ["certificates", "registrar"]
    assert [n for n in SERVICES if "members" in mounts(n)] == ["certificates", "supernode"]
    assert [n for n in SERVICES if "aggregator" in mounts(n)] == ["certificates", "superlink"]


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


@pytest.mark.parametrize("name", ["federation.sh", "local.sh"])
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
        assert (tmp_path / "supernodes" / f"{place}.key").stat().st_mode & 0o777 == 0o600
