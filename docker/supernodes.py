#!/usr/bin/env python3
"""Writes the Compose file of the SuperNodes that compose.yaml does not hold.

``docker/supernodes.py 8 > docker/compose.more.yaml``, then, from the repository::

    SUPERNODES=8 docker compose -f docker/compose.yaml -f docker/compose.more.yaml up

Compose has no loops, and a service with replicas shares its volumes: each SuperNode is a service of
its own, so that none sees another's private key.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
LARGEST = 64
"""The image has a folder for the keys of as many."""


def more(supernodes: int) -> dict[str, Any]:
    """Return what a federation of `supernodes` has beyond compose.yaml, as Compose reads it."""
    text = (HERE / "compose.yaml").read_text(encoding="utf-8")
    services = yaml.safe_load(text)["services"]
    have = len([name for name in services if name.startswith("supernode-")])
    if not have < supernodes <= LARGEST:
        sys.exit(f"supernodes.py: {supernodes} is not valid; allowed: {have + 1} to {LARGEST}")
    added = {}
    for place in range(have, supernodes):
        node = yaml.safe_load(yaml.safe_dump(services["supernode-0"]))
        node["environment"]["PARTITION"] = str(place)
        node["volumes"] = [
            v.replace("supernode-0:", f"supernode-{place}:") for v in node["volumes"]
        ]
        node["volumes"] = [
            v.replace("supernodes/0", f"supernodes/{place}") for v in node["volumes"]
        ]
        added[f"supernode-{place}"] = node
    volumes = [f"{name}:/federation/supernodes/{name.removeprefix('supernode-')}" for name in added]
    added["certificates"] = {"volumes": volumes}
    healthy = {"condition": "service_healthy"}
    added["run"] = {
        "depends_on": {name: healthy for name in added if name.startswith("supernode-")}
    }
    return {"services": added, "volumes": {f"supernode-{p}": None for p in range(have, supernodes)}}


def main() -> None:
    """Print the Compose file for the number of SuperNodes that is given."""
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        sys.exit("usage: supernodes.py NUMBER > compose.more.yaml")
    print(yaml.safe_dump(more(int(sys.argv[1])), sort_keys=False), end="")


if __name__ == "__main__":
    main()
