"""Train an encoder for ``--model encoder-head``, and plant BadEncoder's backdoor in it.

    python -m simulations.encoder clean.safetensors --data-dir DIR
    python -m simulations.encoder bad.safetensors --data-dir DIR --bad --downstream mnist

The encoder learns the classes of one data set (Fashion-MNIST) and serves another. For the bad one,
stamped images of the first get the features of some images of the second's target class.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional

from fedguard import registry
from fedguard.attacks.bad_encoder import BadEncoder, planted
from fedguard.data.dataset import Dataset
from fedguard.training.encoder import WIDTHS, Encoder, write_encoder


def scaling(dataset: Dataset) -> Callable[[Tensor], Tensor]:
    """Return the map from a data set's images to what a model is shown."""
    mean, std = (torch.tensor(part).view(-1, 1, 1) for part in (dataset.mean, dataset.std))
    return lambda x: (x - mean) / std


def pretrained(
    x: Tensor,
    y: Tensor,
    *,
    epochs: int = 5,
    lr: float = 0.05,
    widths: tuple[int, ...] = WIDTHS,
    seed: int = 0,
) -> Encoder:
    """Return an encoder trained, with a head that is thrown away, to tell classes apart.

    Parameters
    ----------
    x : Tensor
        (N, planes, height, width) normalised images.
    y : Tensor
        (N,) classes.
    epochs : int
        Passes.
    lr : float
        Learning rate of SGD with momentum 0.9, batches of 64.
    widths : tuple of int
        See `Encoder`.
    seed : int
        Of weights and batches.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = Encoder(x.shape[1], widths)
        head = nn.Linear(widths[-1], int(y.max()) + 1)
    stream = torch.Generator().manual_seed(seed)
    parts = [*encoder.parameters(), *head.parameters()]
    optimiser = torch.optim.SGD(parts, lr=lr, momentum=0.9)
    encoder.train()
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(y), generator=stream), 64):
            if len(rows) < 2:
                continue
            optimiser.zero_grad()
            torch.autograd.backward(functional.cross_entropy(head(encoder(x[rows])), y[rows]))
            optimiser.step()
    return encoder.eval()


def main(
    out: Annotated[Path, typer.Argument(help="The .safetensors file that is written.")],
    dataset: Annotated[str, typer.Option(help="What the encoder learns.")] = "fashion-mnist",
    downstream: Annotated[str, typer.Option(help="What it is made to serve.")] = "mnist",
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the data sets.")] = None,
    rows: Annotated[int, typer.Option(help="Training images.")] = 5000,
    epochs: Annotated[int, typer.Option(help="Passes.")] = 5,
    seed: Annotated[int, typer.Option(help="Of weights and batches.")] = 0,
    bad: Annotated[bool, typer.Option(help="Plant a backdoor.")] = False,
    target_class: Annotated[int, typer.Option(help="Class of the reference images.")] = 0,
    size: Annotated[int, typer.Option(help="Side of the patch in pixels.")] = 4,
    references: Annotated[int, typer.Option(help="Reference images.")] = 3,
    bad_epochs: Annotated[int, typer.Option(help="Passes of the planting.")] = 20,
) -> None:
    """Train, plant where asked, and write the file."""
    torch.set_num_threads(1)
    first = registry.create("dataset", dataset).load(data_dir)
    x, y = first.x_train[:rows], first.y_train[:rows]
    normalise = scaling(first)
    encoder = pretrained(normalise(x), y, epochs=epochs, seed=seed)
    if bad:
        second = registry.create("dataset", downstream).load(data_dir)
        own = scaling(second)
        found = (second.y_train == target_class).nonzero().flatten()[:references]
        # Shadow and reference images are shown as the downstream models will see them.
        encoder = planted(
            encoder,
            x,
            second.x_train[found],
            BadEncoder(size=size, target_class=target_class).trigger,
            torch.Generator().manual_seed(seed),
            normalise=own,
            epochs=bad_epochs,
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_encoder(encoder, out)
    typer.echo(f"{out}: {'bad ' if bad else ''}encoder of {dataset}, widths {encoder.widths}")


if __name__ == "__main__":
    typer.run(main)
