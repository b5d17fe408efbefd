"""Fed-NAD: every honest client distils the received model's attention from a teacher of its own."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedguard.errors import check_number
from fedguard.randomness import generator
from fedguard.training.attention import (
    attention_gap,
    feature_stages,
    layer_outputs,
    outputs_of,
)
from fedguard.training.base import Local, TrainingRule
from fedguard.traits import Traits


class FedNad(TrainingRule):
    r"""Local training that also imitates a teacher: the received model, fine-tuned on the shard.

    1. Teacher = a copy of the received model after `teacher_epochs` passes of SGD over the
       client's rows with rate ``teacher_lr`` times the client's; frozen.
    2. Descend the cross-entropy and the gap to the teacher's attention, which is that of `Nad`.

    A client repairs what it received on data of its own, and so helps only where its data are
    clean. A reading of Ma et al., "A Backdoor Defence for Federated Learning by Neural Attention
    Distillation", 2024, of which the text was not at hand; all numbers are ours. Only for
    classifiers: the loss is the cross-entropy.

    Parameters
    ----------
    beta : float
        Weight of attention, at least 0.
    teacher_epochs : int
        Passes of the teacher, at least 1.
    teacher_lr : float
        Its learning rate as a multiple of the client's, above 0.
    stages : int
        Stages that are imitated, counted from the output, at least 1.

    Notes
    -----
    .. math::
       \mathrm{CE}(f(x), y) + \beta \sum_l \operatorname{mean} (\hat{A}_l^T - \hat{A}_l)^2, \qquad
       \hat{A} = \frac{\sum_c F_c^2}{\lVert \sum_c F_c^2 \rVert_2 + 10^{-6}}

    where F is the output of a stage l of the model, c its channels, and T marks the teacher's.
    """

    traits: ClassVar[Traits] = Traits(tasks=frozenset({"classification"}))

    def __init__(
        self,
        *,
        beta: float = 20.0,
        teacher_epochs: int = 1,
        teacher_lr: float = 1.0,
        stages: int = 3,
    ) -> None:
        check_number("beta", beta, at_least=0.0)
        check_number("teacher_epochs", teacher_epochs, at_least=1)
        check_number("teacher_lr", teacher_lr, above=0.0)
        check_number("stages", stages, at_least=1)
        self.beta, self.teacher_epochs = beta, teacher_epochs
        self.teacher_lr, self.stages = teacher_lr, stages

    def begin(self, local: Local) -> None:
        """Train the teacher and listen to the student; see the class."""
        stages = feature_stages(local.module, local.x[local.rows[:2]], self.stages)
        teacher = copy.deepcopy(local.module)
        self._teach(teacher, local)
        stack = ExitStack()
        seen = stack.enter_context(outputs_of(local.module, stages))
        local.scratch.update(teacher=teacher, stages=stages, seen=seen, stack=stack)
        local.module.train()

    def _teach(self, teacher: nn.Module, local: Local) -> None:
        """Fine-tune the teacher on the client's rows."""
        own, size = local.rows, local.settings.batch_size
        rng = generator(local.seed, local.server_round, local.client, "teacher batches")
        trained = [p for p in teacher.parameters() if p.requires_grad]
        optimiser = torch.optim.SGD(trained, lr=self.teacher_lr * local.settings.lr)
        teacher.train()
        for _ in range(self.teacher_epochs):
            order = own[torch.randperm(len(own), generator=rng).to(own.device)]
            for rows in torch.split(order, size):
                if len(rows) < min(2, len(own)):
                    continue
                optimiser.zero_grad()
                loss = functional.cross_entropy(teacher(local.x[rows]), local.y[rows])
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        teacher.eval()

    def loss(self, local: Local, losses: Tensor) -> Tensor:
        """Return the batch's mean loss plus the attention term."""
        if not self.beta:
            return losses.mean()
        kept = local.scratch
        shown = layer_outputs(kept["teacher"], kept["stages"], local.x[local.rows])
        return losses.mean() + self.beta * attention_gap(kept["seen"], shown)

    def end(self, local: Local) -> None:
        """Stop listening."""
        local.scratch["stack"].close()
