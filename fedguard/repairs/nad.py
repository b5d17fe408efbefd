"""NAD: the attention maps of a fine-tuned teacher are distilled into the backdoored model."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedguard.errors import ConfigurationError, check_number
from fedguard.repairs.base import Repair
from fedguard.repairs.toolkit.passes import Passes, Rate, constant, train_on_rows, two_steps
from fedguard.repairs.toolkit.rows import score, split_rows
from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.training.attention import attention_gap, feature_stages, layer_outputs, outputs_of


class Nad(Repair):
    r"""Fine-tune a teacher on clean rows, then let the model imitate where it looks.

    1. Teacher = a copy, fine-tuned on the clean rows; frozen, in evaluation mode.
    2. Attention of a stage: the channels' summed squares over positions, at length 1.
    3. Student = the model: cross-entropy and the gap to the teacher's attention, rate `high` for
       the first tenth of the passes, then a tenth of it.

    Li, Lyu, Koren, Lyu, Li and Ma, "Neural Attention Distillation: Erasing Backdoor Triggers from
    Deep Neural Networks", ICLR 2021; schedule, augmentation and the mean of squares as in the
    authors' code. Ours: every beta of `betas` is tried and the one with the best score on a
    held-out fifth of the rows is kept (a tie goes to the smaller one), because a beta that suits a
    large network crushes a small one; a network without feature maps has the units of its last
    hidden layer as positions.

    Parameters
    ----------
    betas : tuple of float
        Weights of attention that are tried, each at least 0; 0 is the schedule alone.
    teacher_epochs : int
        Passes of the teacher, at least 1, with rate `high` / 10.
    epochs : int
        Passes of the student, at least 1.
    high : float
        Learning rate of the first tenth, above 0.
    batch_size : int
        Rows per step, at least 1.
    stages : int
        Stages that are imitated, counted from the output, at least 1.
    augment, flip : bool
        Whether images are moved and cut, and mirrored.

    Notes
    -----
    .. math::
       \mathrm{CE}(f(x), y) + \beta \sum_l \operatorname{mean} (\hat{A}_l^T - \hat{A}_l)^2, \qquad
       \hat{A} = \frac{\sum_c F_c^2}{\lVert \sum_c F_c^2 \rVert_2 + 10^{-6}}

    where F is the output of a stage l of the model, c its channels, T marks the teacher's, and the
    norm and the mean run over positions.
    """

    def __init__(
        self,
        *,
        betas: tuple[float, ...] = (0.0, 50.0, 150.0, 500.0),
        teacher_epochs: int = 5,
        epochs: int = 10,
        high: float = 0.1,
        batch_size: int = 64,
        stages: int = 3,
        augment: bool = True,
        flip: bool = False,
    ) -> None:
        if not betas or any(not (0.0 <= beta < float("inf")) for beta in betas):
            raise ConfigurationError("betas", betas, "numbers of at least 0, one or more")
        check_number("teacher_epochs", teacher_epochs, at_least=1)
        check_number("epochs", epochs, at_least=1)
        check_number("high", high, above=0.0)
        check_number("batch_size", batch_size, at_least=1)
        check_number("stages", stages, at_least=1)
        self.betas = tuple(sorted(set(betas)))
        self.teacher_epochs, self.epochs, self.high = teacher_epochs, epochs, high
        self.batch_size, self.stages = batch_size, stages
        self.augment, self.flip = augment, flip
        self.teacher: nn.Module | None = None

    def mend(self, tools: ServerTools, rng: torch.Generator) -> Mapping[str, Any]:
        """Distil; return the beta that was kept and all held-out scores; see `Repair.mend`."""
        own, held = split_rows(tools, 0.2, rng)
        before = score(held, tools.model)
        stages = feature_stages(tools.model, tools.x[:2], self.stages)
        teacher = copy.deepcopy(tools.model)
        how = self._passes(constant(self.high / 10.0), self.teacher_epochs)
        train_on_rows(own, teacher, how, rng)
        self.teacher = teacher
        seed = int(torch.randint(2**62, (1,), generator=rng))
        best, found, students = -float("inf"), self.betas[0], []
        state = tools.model.state_dict()
        for beta in self.betas:
            student = copy.deepcopy(tools.model)
            own_rng = torch.Generator().manual_seed(seed)  # every beta sees the same batches
            finite = self._distil(own, teacher, student, stages, beta, own_rng)
            told = score(held, student) if finite else -1.0
            students.append(told)
            if told > best:
                best, found, state = told, beta, student.state_dict()
        tools.model.load_state_dict(state)
        return {
            "beta": found,
            "held_out_before": before,
            "held_out_after": score(held, tools.model),
            "held_out_teacher": score(held, teacher),
            "betas": list(self.betas),
            "scores": [round(told, 4) for told in students],
        }

    def _passes(self, rate: Rate, count: int) -> Passes:
        return Passes(
            rate, count, self.batch_size, 1e-4, nesterov=True, augment=self.augment, flip=self.flip
        )

    def _distil(
        self,
        own: ServerTools,
        teacher: nn.Module,
        student: nn.Module,
        stages: Sequence[str],
        beta: float,
        rng: torch.Generator,
    ) -> bool:
        """Train a student under its teacher; return whether it stayed finite."""
        how = self._passes(two_steps(self.high, self.high / 10.0, 0.1), self.epochs)
        if not beta:
            return train_on_rows(own, student, how, rng)
        with outputs_of(student, stages) as seen:

            def imitate(x: Tensor) -> Tensor:
                shown = layer_outputs(teacher, stages, x)
                return beta * attention_gap(seen, shown)

            return train_on_rows(own, student, how, rng, extra=imitate)
