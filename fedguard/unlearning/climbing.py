"""Bounded gradient ascent on what is to be forgotten, on the client that holds it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fedguard.metrics.classification import predictions
from fedguard.models.flat import FlatModel

_SAMPLE = 200


@dataclass(frozen=True)
class AscentSettings:
    """How far a client climbs its loss.

    Attributes
    ----------
    lr : float
        Step size, above 0.
    epochs : int
        Most passes over the rows to forget.
    batch_size : int
        Rows per step.
    clip : float
        Largest norm of a step's gradient.
    radius : float
        Largest distance from the model it started at; infinite for none.
    cap : float
        Rows with at least ``cap * ln C`` nats of loss are climbed no further; infinite for none.
    tolerance : float
        Stop where accuracy on the held-out rows has fallen by more than this share; above 1 for
        no such rule.
    target : float
        Stop where accuracy on the rows to forget is down to this share.
    repair : float
        Weight of a step down on held-out rows that goes with every step up; 0 for none.
    check_every : int
        Steps between two looks at the stop rules.
    retries : int
        How often the ascent goes back to the last good model and on with half the step size
        where held-out accuracy falls, before it stops there.
    """

    lr: float = 0.01
    epochs: int = 5
    batch_size: int = 32
    clip: float = 5.0
    radius: float = math.inf
    cap: float = math.inf
    tolerance: float = 2.0
    target: float = 0.0
    repair: float = 0.0
    check_every: int = 5
    retries: int = 0

    def plain(self, radius: float = math.inf) -> AscentSettings:
        """Return the same ascent with a ball at most: no cap, nothing that needs held-out rows."""
        return replace(self, radius=radius, cap=math.inf, tolerance=2.0, repair=0.0, retries=0)

    def to_config(self) -> dict[str, int | float]:
        """Return the settings as entries of a Flower config record."""
        return asdict(self)

    @classmethod
    def from_config(cls, record: Mapping[str, Any]) -> AscentSettings:
        """Read the settings back from a Flower config record."""
        return cls(**{entry.name: record[entry.name] for entry in fields(cls)})


@dataclass(frozen=True)
class Ascent:
    """What an ascent did.

    Attributes
    ----------
    delta : Tensor
        (D,) unlearned model minus the model it started at.
    trained, forwarded : int
        Rows that went forward and back, and rows that only went forward.
    stopped : str
        Which rule ended it.
    """

    delta: Tensor
    trained: int
    forwarded: int
    stopped: str


class _Climb:
    """One ascent in progress; see `ascend`."""

    def __init__(
        self,
        model: FlatModel,
        start: Tensor,
        held: tuple[Tensor, Tensor],
        settings: AscentSettings,
        rng: torch.Generator,
    ) -> None:
        self.model, self.start, self.held, self.settings = model, start, held, settings
        self.rng = rng
        self.trained = self.forwarded = 0
        self.lr, self.retries = settings.lr, settings.retries
        self.best = start[: model.layout.num_trainable].clone()
        self.floor = self.accuracy(*held) - settings.tolerance if len(held[1]) else -math.inf

    def accuracy(self, x: Tensor, y: Tensor) -> float:
        self.forwarded += len(y)
        return float((predictions(self.model.module, x).argmax(dim=1) == y).double().mean())

    def held_out_loss(self) -> Tensor:
        x, y = self.held
        rows = torch.randint(len(y), (self.settings.batch_size,), generator=self.rng).to(y.device)
        self.trained += len(rows)
        return functional.cross_entropy(self.model.module(x[rows]), y[rows])

    def step(self, x: Tensor, y: Tensor) -> None:
        """Climb the mean of ``min(loss, cap)`` once, within the ball."""
        model, settings = self.model, self.settings
        logits = model.module(x)
        losses = functional.cross_entropy(logits, y, reduction="none")
        cap = settings.cap * math.log(logits.shape[1])
        loss = losses.clamp(max=cap).mean() if math.isfinite(cap) else losses.mean()
        if settings.repair and len(self.held[1]):
            loss = loss - settings.repair * self.held_out_loss()
        model.gradient.zero_()
        loss.backward()  # type: ignore[no-untyped-call]
        self.trained += len(y)
        norm = float(model.gradient.norm())
        if not math.isfinite(norm) or norm == 0.0:
            return
        model.vector.add_(model.gradient, alpha=self.lr * min(1.0, settings.clip / norm))
        if math.isfinite(settings.radius):
            origin = self.start[: len(model.vector)]
            away = model.vector - origin
            distance = float(away.norm())
            if distance > settings.radius:
                model.vector.copy_(origin + away * (settings.radius / distance))

    def verdict(self, x: Tensor, y: Tensor) -> str:
        """Return why to stop here, or an empty string; remember the last model that may stand."""
        if len(self.held[1]) and self.accuracy(*self.held) < self.floor:
            self.model.vector.copy_(self.best)
            self.lr, self.retries = self.lr / 2.0, self.retries - 1
            return "held-out accuracy" if self.retries < 0 else ""
        self.best.copy_(self.model.vector)
        if self.accuracy(x[:_SAMPLE], y[:_SAMPLE]) <= self.settings.target:
            return "forgotten"
        return ""


def ascend(
    model: FlatModel,
    start: Tensor,
    forget: tuple[Tensor, Tensor],
    held: tuple[Tensor, Tensor],
    settings: AscentSettings,
    rng: torch.Generator,
) -> Ascent:
    """Climb the loss on the rows to forget until one of the stop rules holds.

    1. step along the clipped gradient of ``mean min(loss_i, cap) - repair * loss of held-out
       rows``: a row that is lost already pushes no further, and what non-members need is kept;
    2. project back into the ball around the start;
    3. every few steps, look. Where non-members suffer, go back to the last model under which they
       did not and on at half the step size, at most `retries` times. Stop where the rows are
       forgotten.

    Parameters
    ----------
    model : FlatModel
        Scratch model on the device to use.
    start : Tensor
        (D,) where to start.
    forget, held : tuple of Tensor
        Rows to forget and rows nobody trained on, as the model sees them, with their labels;
        without rows to hold on to the rule about them is off.
    settings : AscentSettings
        How far.
    rng : torch.Generator
        Draws the batches, on the processor.
    """
    model.load(start)
    climb = _Climb(model, start, held, settings, rng)
    x, y = forget
    steps, stopped = 0, "epochs"
    for _ in range(settings.epochs if len(y) else 0):
        order = torch.randperm(len(y), generator=rng).to(y.device)
        for rows in torch.split(order, settings.batch_size):
            model.module.train()
            climb.step(x[rows], y[rows])
            steps += 1
            if steps % settings.check_every == 0 and (reason := climb.verdict(x, y)):
                stopped = reason
                break
        if stopped != "epochs":
            break
    if stopped == "epochs":
        stopped = climb.verdict(x, y) or stopped
    delta = torch.empty_like(start)
    model.delta_from(start, delta)
    return Ascent(delta, climb.trained, climb.forwarded, stopped)
