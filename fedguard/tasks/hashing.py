"""Deep hashing: pictures of a class get codes near each other, so that they find one another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fedguard import registry
from fedguard.data.dataset import Dataset
from fedguard.data.retrieval import HashLoss, Retrieval, class_codes
from fedguard.data.sampling import stratified_sample
from fedguard.errors import ConfigurationError, check_choice, check_number
from fedguard.metrics.classification import predictions
from fedguard.metrics.retrieval import mean_average_precision, similarity
from fedguard.tasks.base import Task


class Hashing(Task):
    """Learn K-bit codes of pictures; x (N, ...) images, y (N,) classes, outputs (B, K).

    Queries are answered with the gallery's pictures in the order of their codes' distance. MAP,
    the mean average precision over the whole gallery, is the headline; a picture is relevant where
    it is of the query's class. Without a gallery the rows are ranked against each other.
    """

    name: ClassVar[str] = "hashing"
    headline: ClassVar[str] = "map"

    def __init__(self) -> None:
        self._facts: Retrieval | None = None

    def read(self, facts: Any) -> None:
        """Learn codes and gallery; see `Task.read`."""
        if isinstance(facts, Retrieval):
            self._facts = facts

    def _known(self, output: Tensor) -> Retrieval:
        if self._facts is not None:
            return self._facts
        nothing = torch.empty(0)
        codes = class_codes(2 * output.shape[1], output.shape[1], "csq")
        return Retrieval("csq", codes, nothing, nothing)

    def losses(self, output: Tensor, y: Tensor) -> Tensor:
        """Return the (B,) losses of outputs against their classes' codes."""
        return self._known(output).losses(output, y)

    @torch.no_grad()
    def evaluate(self, module: nn.Module, x: Tensor, y: Tensor) -> Mapping[str, Any]:
        """Return MAP of the rows as queries, and their mean loss."""
        queries = predictions(module, x)
        facts = self._known(queries)
        if len(facts.gallery_x):
            gallery = predictions(module, facts.gallery_x.to(x))
            scores = similarity(queries, gallery)
            relevant = y[:, None] == facts.gallery_y.to(y.device)[None]
        else:
            scores, relevant = similarity(queries, queries), y[:, None] == y[None]
            relevant &= ~torch.eye(len(y), dtype=torch.bool, device=y.device)
            scores.fill_diagonal_(-float("inf"))
        return {
            "map": mean_average_precision(scores, relevant),
            "loss": float(facts.losses(queries, y).double().mean()),
        }

    def strata(self, y: Tensor) -> Tensor:
        """Return the classes themselves."""
        return y

    def output_fault(self, output: Any, count: int, num_classes: int) -> str | None:
        """Return what is wrong with outputs that must be (count, K)."""
        if isinstance(output, Tensor) and tuple(output.shape) == (count, num_classes):
            return None
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        return f"it returned {shape}, expected {num_classes} bits per row"


class ImageRetrieval:
    """Any data set of images, with classes to be found instead of told.

    Yuan et al., "Central Similarity Quantization for Efficient Image and Video Retrieval", CVPR
    2020; the loss `dpn` is of Fan et al., "Deep Polarized Network for Supervised Learning of
    Accurate Binary Hashing Codes", IJCAI 2020. Test pictures are the queries; the gallery is a
    sample of the training pictures, which a server that answers queries holds in any case. It
    changes no training.

    Parameters
    ----------
    of : str
        Name of a data set of images.
    bits : int
        Length K of a code, at least 4.
    loss : {"csq", "dpn"}
        What is descended.
    gallery : int
        Pictures in the gallery, at least 50; all training pictures where there are fewer.
    arguments : mapping
        Arguments of the data set `of`.
    """

    defaults: ClassVar[Mapping[str, Any]] = {
        "model": "mlp",
        "clients": 5,
        "malicious": 0.2,
        "partition": "iid",
        "rounds": 10,
        "server_samples": 0,
        "strategy": "fedavg",
        "attack": "padhash",
    }
    """What a run with this data set does where nothing is said."""

    def __init__(
        self,
        *,
        of: str = "digits",
        bits: int = 32,
        loss: HashLoss = "csq",
        gallery: int = 4000,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        check_number("bits", bits, at_least=4)
        check_choice("loss", loss, ("csq", "dpn"))
        check_number("gallery", gallery, at_least=50)
        if of == "retrieval":
            raise ConfigurationError("dataset.of", of, "a data set of images, such as digits")
        self.of, self.bits, self.loss, self.gallery = of, bits, loss, gallery
        self.arguments = dict(arguments or {})

    def load(self, data_dir: Path | None) -> Dataset:
        """Return the images with their classes' codes; `num_classes` is the number of bits."""
        images = registry.create("dataset", self.of, **self.arguments).load(data_dir)
        if not isinstance(images, Dataset) or not images.is_image:
            raise ConfigurationError("dataset.of", self.of, "a data set of images, such as digits")
        size = min(self.gallery, len(images.x_train))
        rows = stratified_sample(images.y_train, size, "dataset.gallery")
        shape = (-1,) + (1,) * (len(images.input_shape) - 1)
        mean, std = (torch.tensor(part).view(shape) for part in (images.mean, images.std))
        codes = class_codes(images.num_classes, self.bits, self.loss)
        x, y = (images.x_train[rows] - mean) / std, images.y_train[rows]
        return replace(
            images,
            name=f"retrieval of {images.name}",
            num_classes=self.bits,
            task="hashing",
            facts=Retrieval(self.loss, codes, x, y),
        )
