"""Makes the parts that a configuration names, and finds what does not fit before round 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedguard import registry
from fedguard.assembly.fits import check_task, model_arguments
from fedguard.assembly.plugins import check_plugin
from fedguard.attacks.base import Attack
from fedguard.attacks.toolkit.schedule import parse_schedule
from fedguard.audits.base import Audit
from fedguard.clients.federation import (
    Federation,
    draw_malicious,
    draw_poisoned,
    hold_out_for_server,
    hold_out_of_clients,
)
from fedguard.clients.personal import leave_with_clients
from fedguard.clients.training import ClientTrainer, TrainingSettings
from fedguard.config import Part, SimulationConfig
from fedguard.config.parts import CLASSES
from fedguard.data.class_names import with_class_numbers
from fedguard.data.dataset import Dataset
from fedguard.data.partitions.base import Divided
from fedguard.errors import ConfigurationError
from fedguard.grids.foreign_app import find_client_app
from fedguard.models.build import build
from fedguard.models.flat import FlatModel
from fedguard.models.start import begin_from
from fedguard.repairs.base import Repair
from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.tasks.base import task_of
from fedguard.training.base import TrainingRule
from fedguard.traits import traits_of


def attacks_in(config: SimulationConfig, server_round: int) -> bool:
    """Return whether the coalition attacks in a server round."""
    return parse_schedule(config.attack_rounds).active(server_round, config.seed)


def load_dataset(config: SimulationConfig) -> Dataset:
    """Load the data set that a configuration names, and let its task check it."""
    loader = registry.create("dataset", config.dataset.name, **config.dataset.arguments)
    _group(loader, config)
    _lend_codec(loader, config)
    dataset = loader.load(config.data_dir)
    if not isinstance(dataset, Dataset):
        raise ConfigurationError("dataset", config.dataset.name, "a loader that returns a Dataset")
    task_of(dataset)
    return dataset


def _group(loader: Any, config: SimulationConfig) -> None:
    """Tell a loader that can group its rows by any column which one the partition asks for."""
    partition = registry.find("partition", config.partition.name)
    by = config.partition.arguments.get("by")
    grouper = getattr(loader, "group_by", None)
    if getattr(partition, "needs_groups", False) and by is not None and grouper is not None:
        grouper(by)


def _lend_codec(loader: Any, config: SimulationConfig) -> None:
    """Let a loader of texts read them as the words of a model that comes with its own."""
    codec = getattr(registry.find("model", config.model.name), "codec", None)
    if codec is None:
        return
    use = getattr(loader, "use_codec", None)
    if use is None:
        told = f"a data set of texts with model {config.model.name}, such as jsonl"
        raise ConfigurationError("dataset", config.dataset.name, told)
    use(codec())


def _check_encoder(config: SimulationConfig) -> None:
    """Refuse an attack that lies in an encoder's file without one, or with clients that lie."""
    name = config.attack.name
    if "encoder" not in config.model.arguments:
        told = f"one with an encoder's file, such as encoder-head; {name} lies in that file"
        raise ConfigurationError("model", config.model.name, told)
    if config.malicious:
        told = f"0 with {name}: it lies in the encoder's file, and no client does anything"
        raise ConfigurationError("malicious", config.malicious, told)


def make_attack(config: SimulationConfig, dataset: Dataset) -> Attack:
    """Make the attack and let it check the task."""
    name = config.attack.name
    declared = traits_of(registry.find("attack", name))
    if declared.world == "vertical":
        raise ConfigurationError(
            "attack", name, "it only with a vertical strategy, such as opus-vfl"
        )
    arguments = with_class_numbers("attack", config.attack.arguments, CLASSES, dataset.class_names)
    attack = registry.create("attack", name, **arguments)
    if not isinstance(attack, Attack):
        raise ConfigurationError("attack", name, "a subclass of fedguard's Attack")
    if "images" in attack.needs and not dataset.is_image:
        raise ConfigurationError(
            "attack", name, f"an attack that does not need images; {dataset.name} holds none"
        )
    if "encoder" in attack.needs:
        _check_encoder(config)
    check_task("attack", name, declared.but(tasks=attack.tasks), task_of(dataset))
    rule = traits_of(registry.find("strategy", config.strategy.name))
    if "aggregate" in attack.needs and not rule.copyable:
        raise ConfigurationError(
            "attack",
            name,
            f"an attack that needs no copy of the rule; {config.strategy.name} cannot be copied",
        )
    if config.check_plugins:
        check_plugin("attack", name, attack)
    try:
        attack.bind(dataset.num_classes, dataset.input_shape)
        attack.meet(dataset)
    except ConfigurationError as error:
        raise error if error.field.startswith("attack") else error.within("attack") from error
    return attack


def check_client_app(config: SimulationConfig, attack: Attack) -> None:
    """Check that the user's own ClientApp is there and that the attack does not need its data."""
    if config.client_app is None:
        return
    find_client_app(config.client_app.name)
    if {"data", "training", "model"} & attack.needs:
        raise ConfigurationError(
            "attack",
            config.attack.name,
            "one that rewrites updates, such as sign-flip: a client app brings data of its own",
        )


def make_federation(
    config: SimulationConfig, dataset: Dataset, attack: Attack, device: torch.device
) -> Federation:
    """Hold out the server's rows, divide the others among clients and draw the malicious ones."""
    strata = task_of(dataset).strata(dataset.y_train)
    classes = max(int(strata.max()) + 1, dataset.num_classes if strata is dataset.y_train else 1)
    held, rest = hold_out_for_server(
        strata,
        classes,
        config.server_samples,
        config.seed,
        balanced=config.server_draw == "balanced",
        share=config.server_classes,
    )
    if config.server_label_noise and task_of(dataset).name != "classification":
        allowed = f"0 with task {task_of(dataset).name}, whose rows have no class"
        raise ConfigurationError("server_label_noise", config.server_label_noise, allowed)
    partition = registry.create("partition", config.partition.name, **config.partition.arguments)
    if getattr(partition, "needs_groups", False):
        split = partition.split_dataset(dataset, rest, config.clients, config.seed)
    else:
        split = partition.split(strata[rest], classes, config.clients, config.seed)
    shards: Sequence[Tensor]
    divided, judged = split.indices, None
    if isinstance(divided, Divided):
        shards = divided.among(rest)
    else:
        shards = [rest[rows] for rows in divided]
    if config.evaluate_clients:
        shards, judged = hold_out_of_clients(strata, shards, config.evaluate_clients, config.seed)
    malicious = draw_malicious(config.clients, config.malicious, config.seed)
    return Federation(
        dataset=dataset,
        shards=shards,
        malicious=malicious,
        poisoned=_poisoned(config, attack, malicious),
        attack=attack,
        seed=config.seed,
        server_rows=held,
        server_label_noise=config.server_label_noise,
        noise_std=split.noise_std,
        held_out=judged,
        groups=split.groups,
        device=device,
    )


def _poisoned(
    config: SimulationConfig, attack: Attack, malicious: frozenset[int]
) -> frozenset[int]:
    """Return the honest clients whose data a third party poisoned, by the attack's poison."""
    if config.poisoned_clients and ("data" not in attack.needs or "model" in attack.needs):
        allowed = "one that poisons data once, such as badnets, with poisoned_clients"
        raise ConfigurationError("attack", config.attack.name, allowed)
    return draw_poisoned(config.clients, config.poisoned_clients, malicious, config.seed)


def make_model(config: SimulationConfig, dataset: Dataset, *, receives: bool = False) -> nn.Module:
    """Build the network, with initial weights that depend on the seed alone, or a file's.

    Parameters
    ----------
    config : SimulationConfig
        The run.
    dataset : Dataset
        The data it is for.
    receives : bool
        Whether every weight that is trained arrives with a message, as on a node: then the file
        to start from may be missing on this machine, unless parameters are frozen.
    """
    task = task_of(dataset)
    model = build(
        config.model.name,
        dataset.input_shape,
        dataset.num_classes,
        config.seed,
        latent_layer=config.latent_layer,
        sample=task.sample(dataset.input_shape, 2),
        fault=lambda output: task.output_fault(output, 2, dataset.num_classes),
        **model_arguments(config, dataset),
    )
    if config.start_from is not None:
        whole = all(value.requires_grad for value in model.parameters())
        if config.start_from.exists() or not (receives and whole):
            begin_from(model, config.start_from, dataset.class_names)
    return model


def make_training(config: SimulationConfig) -> TrainingRule:
    """Make the rule by which clients train."""
    part = config.training
    rule = registry.create("training", part.name, **part.arguments)
    if not isinstance(rule, TrainingRule):
        raise ConfigurationError("training", part.name, "a subclass of fedguard's TrainingRule")
    return rule


def make_trainer(
    config: SimulationConfig, model: nn.Module, federation: Federation
) -> ClientTrainer:
    """Return a trainer with the configuration's rule and hyper-parameters."""
    settings = TrainingSettings(
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        local_epochs=config.local_epochs,
        batch_size=config.batch_size,
    )
    rule = make_training(config)
    if not rule.shaping.plain and not federation.task.softmax:
        name = "focal" if rule.shaping.focal else "balance"
        value = getattr(rule.shaping, name)
        allowed = f"0 with task {federation.task.name}: it is for one class per row"
        raise ConfigurationError(f"training.{name}", value, allowed)
    check_task("training", config.training.name, traits_of(rule), federation.task)
    unread = sorted(set(config.client_config) - rule.reads)
    if unread and config.client_app is None:
        known = ", ".join(sorted(rule.reads))
        allowed = f"keys that training {config.training.name} reads: {known}"
        raise ConfigurationError("client_config", unread[0], allowed)
    trainer = ClientTrainer(model, federation, settings, config.seed, rule, config.rounds)
    if trainer.personal is not None and config.unlearn:
        allowed = "sgd where clients are to forget: what they keep is not unlearnt"
        raise ConfigurationError("training", config.training.name, allowed)
    if trainer.least > config.batch_size:
        allowed = f"at least {trainer.least}: BatchNorm1d normalises over the rows of a batch"
        raise ConfigurationError("batch_size", config.batch_size, allowed)
    return trainer


def make_server_model(config: SimulationConfig, dataset: Dataset) -> nn.Module:
    """Build the server's network; what the training rule leaves with clients does not travel."""
    model = make_model(config, dataset)
    private = make_training(config).private(model) if config.client_app is None else frozenset()
    return leave_with_clients(model, private)


def make_repair(config: SimulationConfig, dataset: Dataset) -> Repair | None:
    """Make the repair, None where none is configured."""
    part = config.repair
    if part is None:
        return None
    repair = registry.create("repair", part.name, **part.arguments)
    if not isinstance(repair, Repair):
        raise ConfigurationError("repair", part.name, "a subclass of fedguard's Repair")
    _check_lent("repair", part, repair, config, dataset)
    return repair


def make_audits(config: SimulationConfig, dataset: Dataset, wanted: str | None) -> dict[str, Audit]:
    """Make the configured audit, and the one that the strategy wants, each by its name."""
    parts = [config.audit] if config.audit is not None else []
    if wanted is not None and wanted not in (part.name for part in parts):
        parts.append(Part(name=wanted))
    audits: dict[str, Audit] = {}
    for part in parts:
        audit = registry.create("audit", part.name, **part.arguments)
        if not isinstance(audit, Audit):
            raise ConfigurationError("audit", part.name, "a subclass of fedguard's Audit")
        _check_lent("audit", part, audit, config, dataset)
        audits[part.name] = audit
    return audits


def _check_lent(
    kind: str, part: Part, made: Repair | Audit, config: SimulationConfig, dataset: Dataset
) -> None:
    """Refuse a part that the server cannot lend what it needs, or that serves another task."""
    declared = traits_of(made)
    check_task(kind, part.name, declared, task_of(dataset))
    if declared.server_data != "none" and config.server_samples == 0:
        raise ConfigurationError("server_samples", 0, f"at least 1 with {kind} {part.name}")


def server_tools(
    config: SimulationConfig, dataset: Dataset, federation: Federation, model: FlatModel
) -> ServerTools:
    """Return what the server may lend: a model and its own examples."""
    x, y = federation.server_examples()
    return ServerTools(
        model=model.module,
        x=x,
        y=y,
        latent_layer=getattr(model.module, "latent_layer", None) or "",
        num_classes=dataset.num_classes,
        task=federation.task,
    )
