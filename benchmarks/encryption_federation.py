"""Encrypted averaging beside plain FedAvg on MNIST: accuracy, weights, time, in one run.

    OMP_NUM_THREADS=1 python benchmarks/encryption_federation.py --data-dir DIR [--rounds 5]

Each strategy trains the same federation (mlp, 10 honest clients). The control is plain FedAvg
whose sum is off by 3e-9 in every entry, less than float32 resolves in most weights: SGD amplifies
any difference, so what the control shows is the training's doing, not the encryption's.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from fedguard.config import parse
from fedguard.runs.simulation import Simulation
from fedguard.strategies.fedavg import FedAvg
from fedguard.updates import ClientUpdates, Verdict

STRATEGIES = {
    "fedavg": "fedavg",
    "control": "encryption_federation:Control",
    "ckks": "fedguard.encryption.ckks:Ckks",
    "xmkckks": "fedguard.encryption.xmkckks:XmkCkks",
    "xmkckks threshold 7": {"name": "fedguard.encryption.xmkckks:XmkCkks", "threshold": 7},
    "cost model": "fedguard.encryption.xmkckks_cost_model:XmkCkksCostModel",
    "secagg+": {"name": "fedguard.encryption.secagg:SecAggPlus", "max_weight": 8192.0},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "iid, lr 0.01, batch 128": {"partition": "iid", "lr": 0.01, "batch_size": 128},
    "iid, lr 0.05, batch 32": {"partition": "iid"},
}


class Control(FedAvg):
    """Plain FedAvg, off by 3e-9."""

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the mean with a little noise."""
        verdict = super().combine(updates)
        stream = torch.Generator().manual_seed(updates.server_round)
        noise = 3e-9 * torch.randn(verdict.delta.shape, generator=stream)
        return Verdict(verdict.delta + noise, verdict.weights)


def run(strategy: Any, settings: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Run one federation; return accuracy, final weights and seconds."""
    config = parse(
        {
            "strategy": strategy,
            "attack": "none",
            "malicious": 0.0,
            "dataset": "mnist",
            "data_dir": str(options.data_dir),
            "model": "mlp",
            "clients": 10,
            "rounds": options.rounds,
            **settings,
        }
    )
    simulation = Simulation(config)
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        summary = simulation.run(Path(folder))
        seconds = time.process_time() - started
        tensors = load_file(Path(folder) / "model.safetensors")
    weights = torch.cat([tensor.reshape(-1).double() for tensor in tensors.values()])
    return {"accuracy": summary["final"]["accuracy"], "weights": weights, "seconds": seconds}


def main() -> None:
    """Run all strategies under all settings and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    for name, settings in SETTINGS.items():
        print(f"MNIST mlp, 10 clients, {options.rounds} rounds, {name}")
        plain: dict[str, Any] | None = None
        for label, strategy in STRATEGIES.items():
            found = run(strategy, settings, options)
            plain = plain or found
            gap = (found["weights"] - plain["weights"]).abs()
            points = 100 * (found["accuracy"] - plain["accuracy"])
            largest, rms = float(gap.max()), float(gap.square().mean().sqrt())
            print(
                f"  {label:20s} accuracy {found['accuracy']:.4f} ({points:+.2f} points)  weights "
                f"off by at most {largest:.1e}, rms {rms:.1e}  {found['seconds']:.1f} CPU s",
                flush=True,
            )


if __name__ == "__main__":
    main()
