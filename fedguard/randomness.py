"""Randomness as a value: one independent stream per (seed, server round, client, purpose).

Nothing in fedguard reads a global random state, so the number of workers, the order in which
clients run and resuming after a crash change no result.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

SERVER = -1
"""Stands for the server where a stream asks for a client."""


def stream_seed(seed: int, server_round: int, client: int, purpose: str) -> int:
    """Return the 63-bit seed of one stream.

    Parameters
    ----------
    seed : int
        Seed of the whole run.
    server_round : int
        Server round the stream is used in; 0 for what happens before the first round.
    client : int
        Client (partition) id, or `SERVER`.
    purpose : str
        What the stream is for, such as ``"batches"``; different purposes never share a stream.
    """
    key = f"{seed}/{server_round}/{client}/{purpose}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "little") >> 1


def seed_for(seed: int, purpose: str) -> int:
    """Return the 31-bit seed that a part gets in place of the run's own.

    A strategy that knew the run's seed could draw again whatever the run drew, the malicious
    clients first of all; from this one no other stream can be drawn.
    """
    return stream_seed(seed, 0, SERVER, f"seed of {purpose}") >> 32


def generator(
    seed: int, server_round: int, client: int, purpose: str, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return the PyTorch generator of one stream; see `stream_seed`."""
    stream = torch.Generator(device=device)
    stream.manual_seed(stream_seed(seed, server_round, client, purpose))
    return stream


def numpy_generator(seed: int, server_round: int, client: int, purpose: str) -> np.random.Generator:
    """Return the NumPy generator of one stream; see `stream_seed`."""
    return np.random.default_rng(stream_seed(seed, server_round, client, purpose))
