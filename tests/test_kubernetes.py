"""The Kubernetes manifests: complete in themselves, hardened, and each key in one pod alone."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

DOCKER = Path(__file__).resolve().parents[1] / "docker"
SCRIPT = (DOCKER / "federation.sh").read_text()


def manifests(*arguments: object) -> list[dict[str, Any]]:
    command = [sys.executable, DOCKER / "kubernetes.py", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module")
def secrets(tmp_path_factory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("federation")
    command = [sys.executable, DOCKER / "certificates.py", folder, "--supernodes", "2"]
    subprocess.run([*command, "--host", "superlink"], check=True, capture_output=True)
    made = manifests("secrets", folder, "--supernodes", "2")
    authority = (folder / "authority" / "ca.key").read_bytes()
    held = [base64.b64decode(v) for secret in made for v in secret["data"].values()]
    assert authority not in held
    assert (folder / "supernodes" / "1" / "node.key").read_bytes() in held
    return made


STANDING = manifests("standing", "--image", "here/fedguard:1", "--supernodes", "2")
RUN = manifests("run", "--image", "here/fedguard:1", "--set", "ROUNDS=3", "--set", "STRATEGY=krum")
PODS = {
    m["metadata"].get("name", "run"): m["spec"]["template"]
    for m in [*STANDING, *RUN]
    if m["kind"] in ("Deployment", "Job")
}


def test_the_roles_of_a_federation_are_there():
    assert list(PODS) == ["superlink", "enrol", "supernode-0", "supernode-1", "run"]
    for name, pod in PODS.items():
        (container,) = pod["spec"]["containers"]
        (role,) = container["args"]
        assert re.search(rf"^{role}\)$", SCRIPT, re.MULTILINE), name
        assert container["image"] == "here/fedguard:1"


def test_every_variable_is_one_that_the_script_reads():
    for pod in PODS.values():
        for variable in pod["spec"]["containers"][0]["env"]:
            assert variable["name"] in SCRIPT, variable
            assert isinstance(variable["value"], str)
    given = {v["name"]: v["value"] for v in PODS["run"]["spec"]["containers"][0]["env"]}
    assert (given["ROUNDS"], given["STRATEGY"]) == ("3", "krum")


def test_what_a_pod_mounts_is_made_and_no_key_is_in_two(secrets):
    made = {m["metadata"]["name"] for m in secrets}
    claims = {m["metadata"]["name"] for m in STANDING if m["kind"] == "PersistentVolumeClaim"}
    held: dict[str, list[str]] = {}
    for name, pod in PODS.items():
        for volume in pod["spec"]["volumes"]:
            if "secret" in volume:
                held.setdefault(volume["secret"]["secretName"], []).append(name)
            if "persistentVolumeClaim" in volume:
                held.setdefault(volume["persistentVolumeClaim"]["claimName"], []).append(name)
    assert set(held) == made | claims
    assert {s: users for s, users in held.items() if s != "public"} == {
        "superlink": ["superlink"],
        "state": ["superlink"],
        "runs": ["superlink"],
        **{f"{kind}-{p}": [f"supernode-{p}"] for p in (0, 1) for kind in ("supernode", "ledger")},
    }
    for place in (0, 1):
        spec = PODS[f"supernode-{place}"]["spec"]["containers"][0]
        assert {"name": "PARTITION", "value": str(place)} in spec["env"]
        paths = {mount["mountPath"]: mount["readOnly"] for mount in spec["volumeMounts"]}
        assert paths[f"/federation/supernodes/{place}"] is True
        assert paths["/federation/state"] is False


def test_pods_are_hardened():
    for pod in PODS.values():
        context = pod["spec"]["containers"][0]["securityContext"]
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}


def test_selectors_find_their_pods_and_only_the_superlink_is_reached():
    for manifest in STANDING:
        if manifest["kind"] == "Deployment":
            wanted = manifest["spec"]["selector"]["matchLabels"]
            assert wanted.items() <= manifest["spec"]["template"]["metadata"]["labels"].items()
    (service,) = [m for m in STANDING if m["kind"] == "Service"]
    labels = PODS["superlink"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    reached = [n for n, p in PODS.items() if labels["part"] == p["metadata"]["labels"].get("part")]
    assert reached == ["superlink"]
    (into,) = [m for m in STANDING if m["metadata"]["name"] == "from-the-federation"]
    assert into["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    (nobody,) = [m for m in STANDING if m["metadata"]["name"] == "nobody-talks"]
    assert set(nobody["spec"]) == {"podSelector", "policyTypes"}


def test_a_run_has_a_fresh_name_each_time_and_is_tried_once():
    (job,) = RUN
    assert job["metadata"]["generateName"] == "run-"
    assert "name" not in job["metadata"]
    assert job["spec"]["backoffLimit"] == 0


def test_kubernetes_own_schemas_accept_them(secrets):
    validator = pytest.importorskip("kubernetes_validate")
    named = [{**m, "metadata": {"name": "run-1", **m["metadata"]}} for m in RUN]
    for manifest in [*secrets, *STANDING, *named]:
        validator.validate(manifest, validator.latest_version(), strict=True)
