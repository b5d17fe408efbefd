#!/usr/bin/env python3
"""Writes the federation as plain Kubernetes manifests, a list that ``kubectl apply`` takes.

::

    docker/certificates.py federation --supernodes 5 --host superlink
    docker/kubernetes.py secrets federation --supernodes 5 | kubectl apply -f -
    docker/kubernetes.py standing --image registry/fedguard:1 --supernodes 5 | kubectl apply -f -
    docker/kubernetes.py run --image registry/fedguard:1 --set ROUNDS=10 | kubectl create -f -

Each SuperNode is a Deployment of its own with a Secret of its own. The authority's key is in none
of them. Network policies let SuperNodes reach the SuperLink and nobody else.
"""

from __future__ import annotations

import argparse
import base64
import sys
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]

NAMESPACE = "fedguard"
USER = 10001
PORT = 8000
ROOT = "/federation"

HARDENED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
POD = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def named(kind: str, version: str, name: str, **rest: Any) -> Manifest:
    """Return a manifest with its metadata."""
    metadata = {"name": name, "namespace": NAMESPACE, "labels": {"app": "fedguard"}}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}


def secret(name: str, files: list[Path]) -> Manifest:
    """Return files as a Secret."""
    data = {path.name: base64.b64encode(path.read_bytes()).decode() for path in files}
    return named("Secret", "v1", name, type="Opaque", data=data)


def secrets(folder: Path, supernodes: int) -> list[Manifest]:
    """Return what each role may read, of a folder that certificates.py wrote."""
    public = [folder / "public" / "ca.crt", folder / "public" / "roster.json"]
    public += [folder / "public" / f"{place}.pub" for place in range(supernodes)]
    superlink = [folder / "superlink" / name for name in ("server.pem", "server.key")]
    made = [secret("public", public), secret("superlink", superlink)]
    for place in range(supernodes):
        own = folder / "supernodes" / str(place)
        made.append(secret(f"supernode-{place}", [own / "node.key", own / "identity"]))
    return made


def pod(
    role: str, image: str, environment: dict[str, str], volumes: dict[str, Manifest], **more: Any
) -> Manifest:
    """Return a pod's template: one container that runs a role of federation.sh.

    Parameters
    ----------
    role, image : str
        What runs.
    environment : dict
        Settings of federation.sh.
    volumes : dict
        Path below /federation to the volume that is mounted there; Secrets are read-only.
    **more : Any
        More of the container.
    """
    volumes = {**volumes, "/tmp": {"emptyDir": {}}, "/home/fedguard": {"emptyDir": {}}}
    mounts, sources = [], []
    for number, (path, source) in enumerate(volumes.items()):
        where = path if path.startswith("/") else f"{ROOT}/{path}"
        mounts.append({"name": f"v{number}", "mountPath": where, "readOnly": "secret" in source})
        sources.append({"name": f"v{number}", **source})
    container = {
        "name": role,
        "image": image,
        "args": [role],
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "securityContext": HARDENED,
        "volumeMounts": mounts,
        **more,
    }
    spec = {
        "automountServiceAccountToken": False,
        "securityContext": POD,
        "containers": [container],
        "volumes": sources,
    }
    return {"metadata": {"labels": {"app": "fedguard", "role": role}}, "spec": spec}


def of_secret(name: str) -> Manifest:
    """Return a volume that holds a Secret, for its group alone."""
    return {"secret": {"secretName": name, "defaultMode": 0o440}}


def claimed(name: str) -> Manifest:
    """Return a volume that outlives the pod."""
    return {"persistentVolumeClaim": {"claimName": name}}


def deployment(name: str, template: Manifest) -> Manifest:
    """Return a Deployment of one pod, which is never there twice."""
    template["metadata"]["labels"]["part"] = name
    spec = {
        "replicas": 1,
        "strategy": {"type": "Recreate"},
        "selector": {"matchLabels": {"app": "fedguard", "part": name}},
        "template": template,
    }
    return named("Deployment", "apps/v1", name, spec=spec)


def job(name: str, template: Manifest, *, again: bool = False) -> Manifest:
    """Return a Job that is tried again a few times, or once, under a fresh name."""
    template["spec"]["restartPolicy"] = "Never"
    made = named("Job", "batch/v1", name, spec={"backoffLimit": 6, "template": template})
    if again:
        del made["metadata"]["name"]
        made["metadata"]["generateName"] = f"{name}-"
        made["spec"].update(backoffLimit=0, ttlSecondsAfterFinished=86400)
    return made


def probe(role: str, period: int) -> Manifest:
    """Return a probe that runs a role of federation.sh."""
    command = ["/app/docker/federation.sh", role]
    return {"exec": {"command": command}, "periodSeconds": period, "timeoutSeconds": 20}


def standing(image: str, supernodes: int, storage: str) -> list[Manifest]:
    """Return what a federation keeps running."""
    settings = {"SUPERNODES": str(supernodes), "SUPERLINK_HOST": "superlink", "PORT": str(PORT)}
    size = {"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"memory": "3Gi"}}
    larger = {"requests": {"cpu": "500m", "memory": "2Gi"}, "limits": {"memory": "8Gi"}}
    starting = {"failureThreshold": 60}
    made: list[Manifest] = [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": NAMESPACE,
                "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
            },
        }
    ]
    volumes = [("state", storage), ("runs", storage)]
    volumes += [(f"ledger-{place}", "64Mi") for place in range(supernodes)]
    for name, amount in volumes:
        spec = {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": amount}},
        }
        made.append(named("PersistentVolumeClaim", "v1", name, spec=spec))
    ports = [{"name": "federation", "port": PORT, "targetPort": PORT}]
    selector = {"app": "fedguard", "part": "superlink"}
    made.append(named("Service", "v1", "superlink", spec={"selector": selector, "ports": ports}))
    server = pod(
        "superlink",
        image,
        settings,
        {
            "superlink": of_secret("superlink"),
            "public": of_secret("public"),
            "state": claimed("state"),
            "runs": claimed("runs"),
        },
        ports=[{"containerPort": PORT}],
        resources=larger,
        startupProbe={**probe("healthy", 10), **starting},
        readinessProbe=probe("healthy", 15),
    )
    # The certificate names the service; the pod's own check reaches itself under that name.
    server["spec"]["hostAliases"] = [{"ip": "127.0.0.1", "hostnames": ["superlink"]}]
    made.append(deployment("superlink", server))
    enrolling = pod("enrol", image, settings, {"public": of_secret("public")})
    made.append(job("enrol", enrolling))
    for place in range(supernodes):
        client = pod(
            "supernode",
            image,
            {**settings, "PARTITION": str(place), "LEDGER": f"{ROOT}/state/ledger"},
            {
                "public": of_secret("public"),
                f"supernodes/{place}": of_secret(f"supernode-{place}"),
                "state": claimed(f"ledger-{place}"),
            },
            resources=size,
            startupProbe={**probe("alive", 10), **starting},
            livenessProbe={**probe("alive", 30), "failureThreshold": 4},
        )
        made.append(deployment(f"supernode-{place}", client))
    return [*made, *policies()]


def policies() -> list[Manifest]:
    """Return who may talk to whom."""
    everyone = {"matchLabels": {"app": "fedguard"}}
    server = {"matchLabels": {"app": "fedguard", "part": "superlink"}}
    port = [{"protocol": "TCP", "port": PORT}]
    names = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    both = {"podSelector": everyone, "policyTypes": ["Ingress", "Egress"]}
    out = {
        "podSelector": everyone,
        "policyTypes": ["Egress"],
        "egress": [{"to": [{"podSelector": server}], "ports": port}, {"ports": names}],
    }
    into = {
        "podSelector": server,
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": everyone}], "ports": port}],
    }
    made = {"nobody-talks": both, "to-the-superlink": out, "from-the-federation": into}
    return [
        named("NetworkPolicy", "networking.k8s.io/v1", name, spec=spec)
        for name, spec in made.items()
    ]


def run(image: str, supernodes: int, settings: dict[str, str]) -> list[Manifest]:
    """Return a Job that submits a run and follows it; each time under a fresh name."""
    given = {"SUPERNODES": str(supernodes), "SUPERLINK_HOST": "superlink", "PORT": str(PORT)}
    template = pod("run", image, {**given, **settings}, {"public": of_secret("public")})
    return [job("run", template, again=True)]


def main(arguments: list[str] | None = None) -> None:
    """Print the manifests that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    actions = parser.add_subparsers(dest="action", required=True)
    of_folder, stands, runs = (actions.add_parser(n) for n in ("secrets", "standing", "run"))
    of_folder.add_argument("folder", type=Path)
    for action in (stands, runs):
        action.add_argument("--image", required=True)
    for action in (of_folder, stands, runs):
        action.add_argument("--supernodes", type=int, default=5)
    stands.add_argument("--storage", default="10Gi", help="for state and runs, each")
    runs.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args(arguments)
    if options.action == "secrets":
        made = secrets(options.folder, options.supernodes)
    elif options.action == "standing":
        made = standing(options.image, options.supernodes, options.storage)
    else:
        if wrong := [setting for setting in options.set if "=" not in setting]:
            sys.exit(f"kubernetes.py: --set {wrong[0]} is not NAME=VALUE")
        pairs = dict(setting.split("=", 1) for setting in options.set)
        made = run(options.image, options.supernodes, pairs)
    print(yaml.safe_dump_all(made, sort_keys=False), end="")


if __name__ == "__main__":
    main()
