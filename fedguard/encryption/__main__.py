"""``python -m fedguard.encryption``: what each parameter set gives."""

from __future__ import annotations

import argparse

from fedguard.encryption.lattice.packing import make_packing
from fedguard.encryption.lattice.profiles import PROFILES
from fedguard.encryption.protocol.weights import EXTRAS


def main() -> None:
    """Print one line per profile."""
    parser = argparse.ArgumentParser(description="Parameter sets of multi-key CKKS.")
    parser.add_argument("--clients", type=int, default=10, help="cohort or group size")
    parser.add_argument("--parameters", type=int, default=1_000_000, help="size of the model")
    options = parser.parse_args()
    for profile in PROFILES.values():
        packing = make_packing("coefficients", profile, options.clients)
        print(profile.describe(options.clients, packing.count(options.parameters + EXTRAS)))


if __name__ == "__main__":
    main()
