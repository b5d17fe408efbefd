"""BackdoorIndicator: a task that only clients who plant a backdoor keep alive."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedguard.errors import check_number
from fedguard.layout import ParameterLayout
from fedguard.randomness import SERVER, generator, stream_seed
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.toolkit.averaging import average, equal_weights, rejections
from fedguard.strategies.toolkit.server_training import require_tools
from fedguard.updates import ClientUpdates, Verdict

_BATCH = 64


def indicator_rows(x: Tensor, count: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return `count` rows that no client has, and labels drawn for them, evenly over classes.

    A row is one of the server's with its entries in another order; each pass over the server's
    rows takes an order of its own.

    Parameters
    ----------
    x : Tensor
        (M, ...) the server's rows, M >= 1.
    count : int
        Rows wanted, at least 1.
    classes : int
        Number of classes.
    seed : int
        Seed of the orders and labels.
    """
    stream = generator(seed, 0, SERVER, "indicator rows")
    flat = x.flatten(1)
    parts = []
    for _ in range(-(-count // len(x))):
        order = torch.randperm(flat.shape[1], generator=stream).to(x.device)
        parts.append(flat[:, order])
    rows = torch.cat(parts)[:count].reshape(-1, *x.shape[1:])
    labels = torch.arange(count) % classes
    return rows, labels[torch.randperm(count, generator=stream)].to(x.device)


def label_advantage(predicted: Tensor, labels: Tensor, classes: int) -> float:
    """Return the largest over labels of recall minus the share of other rows taken for it.

    Parameters
    ----------
    predicted, labels : Tensor
        (N,) classes.
    classes : int
        Number of classes; those without a row are passed over.
    """
    best = -1.0
    for label in range(classes):
        own = labels == label
        if bool(own.any()):
            taken = predicted == label
            others = taken[~own].double().mean() if bool((~own).any()) else torch.zeros(())
            best = max(best, float(taken[own].double().mean() - others))
    return best


class BackdoorIndicator(RobustStrategy):
    r"""Teach the model a meaningless task; reject clients that still know it after training.

    1. Before a round the server trains the model w on `indicator_rows` with random labels, held
       near w, and broadcasts the result;
    2. each client's model, with the BatchNorm statistics of that training, is asked about these
       rows; a client is rejected whose best label has an accuracy of at least `threshold`;
    3. mean of the others.

    Honest training forgets what the server planted; training on any backdoor, which too is a task
    on rows from elsewhere, keeps it alive. A reading of Li and Dai, "BackdoorIndicator: Leveraging
    OOD Data for Proactive Backdoor Detection in Federated Learning", USENIX Security 2024. Ours:
    the rows are the server's own with their entries in another order, so that no further data set
    is needed; from a label's accuracy is taken the share of the other rows that the model calls so
    too, which one that calls everything alike would win; and a rate above the paper's 0.0008, which
    teaches a small network nothing in as many steps. Measured on Fashion-MNIST with a small network
    of dense layers, such rows do not tell attackers from honest clients: at a rate of 0.05 65 % of
    the replies of attackers are rejected and 59 % of the honest, at 0.01 3 % and 3 %. Nothing
    bounds an update: combine it with clipping.

    Parameters
    ----------
    indicator_rows_count : int
        Rows of the task, at least 10; 800 in the paper.
    indicator_steps : int
        Steps of the server's training, at least 1.
    indicator_lr : float
        Its rate, above 0.
    proximity : float
        mu >= 0; 0.1 in the paper.
    threshold : float
        Accuracy at which a client is rejected, above 0 and at most 1; 0.85 in the paper.

    Notes
    -----
    .. math::
       w' \approx \operatorname{argmin}_v \; \mathrm{CE}(v; X, Y)
       + \frac{\mu}{2} \lVert v - w \rVert^2

    .. math::
       s_k = \max_c \left( P[\hat{y}_k = c \mid Y = c] - P[\hat{y}_k = c \mid Y \ne c] \right),
       \qquad S = \{ k : s_k < \theta \}

    where X and Y are the indicator rows and their labels, w the global model, :math:`\hat{y}_k`
    what client k's model says of X, :math:`\theta` the `threshold`, and S the clients that are
    averaged.

    Examples
    --------
    >>> import torch
    >>> from fedguard.layout import ParameterLayout
    >>> from fedguard.strategies import BackdoorIndicator
    >>> from fedguard.updates import ClientUpdates
    >>> _ = torch.manual_seed(0)
    >>> from torch.nn import Linear, ReLU, Sequential
    >>> model = Sequential(Linear(30, 60), ReLU(), Linear(60, 2))
    >>> layout = ParameterLayout.from_module(model)
    >>> server_data = torch.randn(20, 30), torch.arange(20) % 2
    >>> rule = BackdoorIndicator(
    ...     model=model,
    ...     server_data=server_data,
    ...     latent_layer="1",
    ...     indicator_rows_count=20,
    ...     indicator_lr=0.1,
    ... )
    >>> planted = rule.plant(layout.flatten(model.state_dict()), layout, server_round=1)
    >>> forgot = -planted
    >>> updates = ClientUpdates.from_matrix(
    ...     torch.stack([torch.zeros(layout.size), forgot]), layout=layout, global_vector=planted
    ... )
    >>> sorted(rule.decide(updates).reasons)
    [0]
    """

    properties: ClassVar[frozenset[str]] = frozenset()
    traits = RobustStrategy.traits.but(
        blocks="rows",
        server_data="unlabelled",
        server_model=True,
        tasks=frozenset({"classification"}),
    )

    def __init__(
        self,
        *,
        indicator_rows_count: int = 800,
        indicator_steps: int = 200,
        indicator_lr: float = 0.01,
        proximity: float = 0.1,
        threshold: float = 0.85,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        check_number("indicator_rows_count", indicator_rows_count, at_least=10)
        check_number("indicator_steps", indicator_steps, at_least=1)
        check_number("indicator_lr", indicator_lr, above=0.0)
        check_number("proximity", proximity, at_least=0.0)
        check_number("threshold", threshold, above=0.0, at_most=1.0)
        self.indicator_rows_count = indicator_rows_count
        self.indicator_steps = indicator_steps
        self.indicator_lr = indicator_lr
        self.proximity = proximity
        self.threshold = threshold
        self._statistics: Tensor | None = None

    def _task(self) -> tuple[Tensor, Tensor]:
        tools = require_tools(self)
        return indicator_rows(tools.x, self.indicator_rows_count, tools.num_classes, self.seed)

    def plant(self, vector: Tensor, layout: ParameterLayout, server_round: int) -> Tensor:
        """Return the (D,) model with the indicator task planted; its buffers stay as they were.

        A model that leaves the finite numbers on the way is returned as it was.
        """
        tools = require_tools(self)
        x, y = self._task()
        layout.load(tools.model, vector)
        tools.model.train()
        start = [value.detach().clone() for value in tools.model.parameters()]
        order = generator(self.seed, server_round, SERVER, "indicator batches")
        optimiser = torch.optim.SGD(tools.model.parameters(), lr=self.indicator_lr)
        device = x.device
        with torch.enable_grad(), torch.random.fork_rng([] if device.type == "cpu" else [device]):
            torch.manual_seed(stream_seed(self.seed, server_round, SERVER, "indicator noise"))
            for _ in range(self.indicator_steps):
                rows = torch.randint(len(y), (min(_BATCH, len(y)),), generator=order).to(device)
                optimiser.zero_grad()
                loss = cross_entropy(tools.model(x[rows]), y[rows])
                gaps = zip(tools.model.parameters(), start, strict=True)
                pull = torch.stack([(here - there).square().sum() for here, there in gaps]).sum()
                torch.autograd.backward(loss + 0.5 * self.proximity * pull)
                optimiser.step()
        tools.model.eval()
        tools.model.zero_grad(set_to_none=True)
        planted = layout.flatten(tools.model.state_dict())
        if not bool(torch.isfinite(planted).all()):
            return vector
        self._statistics = planted[layout.num_trainable :].clone()
        return torch.cat([planted[: layout.num_trainable], vector[layout.num_trainable :]])

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Plant the indicator and send the model with it; see `RobustStrategy.configure_train`."""
        layout = self.layout or ParameterLayout.from_arrays(arrays)
        planted = self.plant(layout.vector_from_arrays(arrays), layout, server_round)
        return super().configure_train(server_round, layout.to_arrays(planted), config, grid)

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the mean of those who forgot the indicator; see `RobustStrategy.combine`."""
        alive = torch.tensor([self._knows(updates, row) for row in range(len(updates))])
        alive = alive.to(torch.float64)
        weights = equal_weights(alive < self.threshold)
        reasons = rejections(
            updates, weights, lambda row: f"indicator still known, accuracy {alive[row]:.2f}"
        )
        return Verdict(average(updates, weights), weights, {"indicator": alive}, reasons)

    @torch.no_grad()
    def _knows(self, updates: ClientUpdates, row: int) -> float:
        """Return how well a client's model knows the indicator task, -1 to 1."""
        tools, layout = require_tools(self), updates.layout
        x, y = self._task()
        vector = updates.global_vector + updates.deltas[row]
        statistics = self._statistics
        if statistics is None:
            statistics = updates.global_vector[layout.num_trainable :]
        vector[layout.num_trainable :] = statistics
        layout.load(tools.model, vector)
        tools.model.eval()
        predicted = tools.model(x).argmax(dim=1)
        return label_advantage(predicted, y, tools.num_classes)

    def reset(self) -> None:
        """Forget the statistics of the last planting."""
        self._statistics = None
