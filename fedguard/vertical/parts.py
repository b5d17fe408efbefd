"""Makes the parts of a vertical run that a configuration names, and refuses what does not fit."""

from __future__ import annotations

import torch

from fedguard import registry
from fedguard.config import Part, SimulationConfig
from fedguard.config.parts import CLASSES
from fedguard.data.class_names import with_class_numbers
from fedguard.data.dataset import Dataset
from fedguard.errors import ConfigurationError
from fedguard.randomness import seed_for
from fedguard.traits import traits_of
from fedguard.vertical.attacks.base import NoAttack, VerticalAttack
from fedguard.vertical.data import PartyView, divide
from fedguard.vertical.label_holder import LabelHolder
from fedguard.vertical.models import make_bottom, make_top
from fedguard.vertical.parties import Optimiser, Party
from fedguard.vertical.schedule import BatchSchedule
from fedguard.vertical.strategy import VerticalStrategy

HORIZONTAL_ONLY = (
    "pre",
    "attack_knowledge",
    "attack_rounds",
    "model",
    "latent_layer",
    "start_from",
    "evaluate_clients",
    "patience",
    "best_by",
    "fraction",
    "assumed_malicious",
    "poisoned_clients",
    "partition",
    "server_samples",
    "server_draw",
    "server_classes",
    "server_label_noise",
    "local_epochs",
    "client_app",
    "faults",
    "training",
    "repair",
    "audit",
    "enrolment",
    "unlearn",
)
"""Fields that mean nothing where parties hold columns; a vertical run keeps their defaults."""


def check_fits(config: SimulationConfig) -> None:
    """Refuse options of horizontal runs, and horizontal attacks.

    Raises
    ------
    ConfigurationError
        For the first field that does not fit.
    """
    for name in HORIZONTAL_ONLY:
        default = SimulationConfig.model_fields[name].get_default(call_default_factory=True)
        value = getattr(config, name)
        if isinstance(value, Part):
            fits = value.name == default.name
            value, default = value.name, default.name
        else:
            fits = value == default
        if not fits:
            raise ConfigurationError(
                name, value, f"no {name} with vertical strategy {config.strategy.name}"
            )


class World:
    """Everything of a vertical run but the strategy's loop: data, attack, parties, label holder.

    The same configuration makes the same world in every process.

    Parameters
    ----------
    config : SimulationConfig
        A run with a vertical strategy.
    device : torch.device
        Where models and data live.
    """

    def __init__(self, config: SimulationConfig, device: torch.device) -> None:
        check_fits(config)
        self.config, self.device = config, device
        self.strategy = make_vertical_strategy(config)
        self.dataset, groups = load(config)
        self.attack = make_attack(config, self.dataset)
        self.attackers = self.attack.choose(config.clients, config.malicious, config.seed)
        views = divide(self.dataset, config.clients, config.seed, groups)
        self.views = self.attack.views(views, self.attackers)
        self.optimiser = Optimiser(config.lr, config.momentum, config.weight_decay)
        self._parties: dict[int, Party] = {}

    @property
    def colour(self) -> bool:
        """Whether the data are colour images."""
        return self.dataset.is_image and self.dataset.input_shape[0] >= 3

    def party(self, index: int) -> Party:
        """Return one party, made at the first call."""
        if index not in self._parties:
            self._parties[index] = self._make_party(index)
        return self._parties[index]

    def _make_party(self, index: int) -> Party:
        view, strategy = self.views[index], self.strategy
        bottom = make_bottom(
            view.shape, strategy.embedding, strategy.arch, self.config.seed, index
        ).to(self.device)
        moved = PartyView(view.x_train.to(self.device), view.x_test.to(self.device))
        return Party(
            index,
            moved,
            bottom,
            strategy.terms(index),
            self.optimiser,
            self.config.seed,
            self.attack if index in self.attackers else None,
        )

    def start_again(self) -> VerticalStrategy:
        """Forget all parties and return a new strategy; the data stay."""
        self._parties.clear()
        self.strategy = make_vertical_strategy(self.config)
        return self.strategy

    def label_holder(self) -> LabelHolder:
        """Return a new label holder with an untrained top model."""
        dataset, strategy = self.dataset, self.strategy
        top = make_top(
            self.config.clients,
            strategy.embedding,
            dataset.num_classes,
            strategy.arch,
            self.colour,
            self.config.seed,
        ).to(self.device)
        y_train, y_test = (y.to(self.device) for y in (dataset.y_train, dataset.y_test))
        return LabelHolder(y_train, y_test, dataset.num_classes, top, self.optimiser)

    def schedule(self) -> BatchSchedule:
        """Return the order of the rows."""
        rows = len(self.dataset.y_train)
        return BatchSchedule(rows, self.config.batch_size, self.config.seed)


def make_vertical_strategy(config: SimulationConfig) -> VerticalStrategy:
    """Make the strategy, a seed of its own filled in."""
    part = config.strategy
    strategy = registry.create(
        "strategy", part.name, **{"seed": seed_for(config.seed, "strategy"), **part.arguments}
    )
    if not isinstance(strategy, VerticalStrategy):
        raise ConfigurationError("strategy", part.name, "a subclass of VerticalStrategy")
    strategy.parties = config.clients
    return strategy


def load(config: SimulationConfig) -> tuple[Dataset, tuple[int, ...]]:
    """Load the data set, and the original column of each feature where it is a table."""
    loader = registry.create("dataset", config.dataset.name, **config.dataset.arguments)
    dataset = loader.load(config.data_dir)
    if not isinstance(dataset, Dataset):
        raise ConfigurationError("dataset", config.dataset.name, "a loader that returns a Dataset")
    return dataset, tuple(getattr(loader, "groups", ()))


def make_attack(config: SimulationConfig, dataset: Dataset) -> VerticalAttack:
    """Make the attack; ``none`` is the honest one."""
    part = config.attack
    if part.name == "none":
        attack: VerticalAttack = NoAttack()
    else:
        found = registry.find("attack", part.name)
        if traits_of(found).world != "vertical":
            raise ConfigurationError(
                "attack",
                part.name,
                "one on vertical learning: " + ", ".join(registry.names("attack", "vertical")),
            )
        given = with_class_numbers("attack", part.arguments, CLASSES, dataset.class_names)
        attack = registry.create("attack", part.name, **given)
    attack.bind(dataset.y_train, dataset.num_classes, config.seed)
    return attack
