"""`VmapProgram`: any network with batching rules, its clients' forward passes as one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from fedguard.clients.batched import Program
from fedguard.clients.grouping import Group
from fedguard.clients.training import ClientTrainer, TrainingSettings
from fedguard.models.trial import mixes_rows
from fedguard.training.sgd import Sgd

TOLERANCE = 1e-4
"""Largest difference from a plain step, relative to the step's largest entry, that is taken for
rounding when a network is tried out."""


class VmapProgram(Program):
    """Batched SGD of any network: `torch.func.vmap` forward, one backward pass for the group.

    The clients' parameters are stacked, so the gradient of the summed losses holds every client's
    own gradient. Buffers such as BatchNorm's statistics are stacked as well; since padding would
    enter such a layer's statistics, only clients with equally many examples then share a group, as
    wherever a row's output hangs on the other rows of its batch.

    Parameters
    ----------
    trainer : ClientTrainer
        Trains the network.
    size : int
        Most clients of a group.
    """

    def __init__(self, trainer: ClientTrainer, size: int) -> None:
        super().__init__(trainer, size)
        self.module = trainer.model.module
        self.task = trainer.federation.task
        self.exact = bool(trainer.model.buffers) or mixes_rows(self.module, _rows(trainer))
        self.names = self.layout.names[: self.layout.num_trainable_tensors]
        self.views = [
            self.vectors[:, start:end].view(size, *shape) for start, end, shape in self._slices()
        ]
        self.velocities = [
            self.momenta[:, start:end].view(size, *shape)
            for start, end, shape in self._slices()
            if self.settings.momentum
        ]
        self.buffers = {
            name: value.expand(size, *value.shape).clone()
            for name, value in trainer.model.buffers.items()
        }
        self._forward = vmap(self._one)

    def _slices(self) -> list[tuple[int, int, tuple[int, ...]]]:
        count = self.layout.num_trainable_tensors
        offsets = self.layout.offsets
        return list(
            zip(offsets[:count], offsets[1 : count + 1], self.layout.shapes[:count], strict=True)
        )

    def _one(self, parameters: list[Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        named = dict(zip(self.names, parameters, strict=True))
        logits: Tensor = functional_call(self.module, {**named, **buffers}, (x,))
        return logits

    def load(self, global_vector: Tensor, count: int) -> None:
        """Let clients start from the global model, buffers too."""
        super().load(global_vector, count)
        self.module.train()
        tensors = self.layout.unflatten(global_vector)
        for name, stack in self.buffers.items():
            value = tensors[name]
            stack[:count] = value if stack.is_floating_point() else value.round().to(stack.dtype)

    def write_buffers(self, row: int, global_vector: Tensor, out: Tensor) -> None:
        """Write a client's buffers minus the global ones."""
        if self.buffers:
            before, target = self.layout.unflatten(global_vector), self.layout.unflatten(out)
            for name, stack in self.buffers.items():
                target[name].copy_(stack[row].to(out.dtype) - before[name])

    def step(self, group: Group, step: int, active: int) -> Tensor:
        """Take one step; see `Program.step`."""
        rows, weights = group.rows[:active, step], group.weights[:active, step]
        scales = None if group.scales is None else group.scales[:active, step]
        if self.exact:
            rows = rows[:, : int((weights[0] > 0).sum())]
            weights = weights[:, : rows.shape[1]]
            scales = None if scales is None else scales[:, : rows.shape[1]]
        batch = group.x.index_select(0, rows.reshape(-1)).view(*rows.shape, *group.x.shape[1:])
        leaves = [view[:active].detach().requires_grad_() for view in self.views]
        buffers = {name: stack[:active] for name, stack in self.buffers.items()}
        logits = self._forward(leaves, buffers, batch)
        losses = self.task.losses(logits.flatten(0, 1), group.y[rows].flatten(0, 1))
        per_row = losses.view(rows.shape)
        shaped = self.trainer.rule.shaping.of(per_row, scales)
        gradients = torch.autograd.grad((shaped * weights).sum(), leaves)
        self._update(list(gradients), active)
        return (per_row.detach() * weights).sum(dim=1)

    @torch.no_grad()
    def _update(self, gradients: list[Tensor], active: int) -> None:
        values = [view[:active] for view in self.views]
        if self.settings.weight_decay:
            torch._foreach_add_(gradients, values, alpha=self.settings.weight_decay)
        if self.settings.momentum:
            velocities = [velocity[:active] for velocity in self.velocities]
            torch._foreach_mul_(velocities, self.settings.momentum)
            torch._foreach_add_(velocities, gradients)
            gradients = velocities
        torch._foreach_add_(values, gradients, alpha=-self.settings.lr)


def _rows(trainer: ClientTrainer) -> Tensor:
    """Return four examples as the model sees them."""
    x = trainer.federation.dataset.x_train
    return trainer.federation.normalise(x[torch.arange(4) % len(x)])


def why_not(trainer: ClientTrainer) -> str | None:
    """Return why a trainer's network cannot be batched, or None; tries one step of two clients.

    The step must agree with a plain one, buffers included.
    """
    if trainer.draws:
        return "the network draws random numbers, which a batch of clients would draw differently"
    try:
        off = _difference(trainer)
    except Exception as error:  # a network without a batching rule can fail in any way
        return "no batching rule: " + " ".join(str(error).split())[:120]
    return None if off <= TOLERANCE else f"a batched step is off by {off:.1e}"


def _difference(trainer: ClientTrainer) -> float:
    """Return how far one batched step is from a plain one, relative to the step."""
    device = trainer.model.vector.device
    stream = torch.Generator().manual_seed(0)
    shape = trainer.federation.dataset.input_shape
    data = trainer.federation.dataset
    if data.x_train.is_floating_point():
        x = torch.randn(8, *shape, generator=stream).to(device)
    else:
        x = trainer.federation.normalise(data.x_train[torch.arange(8) % len(data.x_train)])
    if trainer.federation.task.softmax:
        y = (torch.arange(8) % data.num_classes).to(device)
    else:
        y = data.y_train[torch.arange(8) % len(data.y_train)].to(device)
    twin = trainer.twin(TrainingSettings(0.1, 0.0, 0.0, 1, 4))
    twin.rule = Sgd()
    start = twin.model.whole_vector()
    expected, batched = (
        torch.empty(2, len(start), device=device),
        torch.empty(2, len(start), device=device),
    )
    for row in range(2):
        twin.step_once(start, x[4 * row : 4 * row + 4], y[4 * row : 4 * row + 4], expected[row])
    group = Group(
        positions=(0, 1),
        sizes=(4, 4),
        x=x,
        y=y,
        rows=torch.arange(8, device=device).view(2, 1, 4),
        weights=torch.full((2, 1, 4), 0.25, device=device),
        shares=torch.ones(2, 1, device=device),
        active=(2,),
    )
    VmapProgram(twin, 2).train(group, start, batched)
    largest = max(float(expected.abs().max()), 1e-12)
    return float((batched - expected).abs().max()) / largest
