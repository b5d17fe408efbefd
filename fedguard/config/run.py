"""`SimulationConfig`: every knob of a run, typed and checked before anything starts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    model_validator,
)

from fedguard import registry
from fedguard.config.combinations import check_evaluation, check_start, check_stopping
from fedguard.config.faults import Faults
from fedguard.config.filled_in import FILLED_IN, check_not_filled_in
from fedguard.config.parts import (
    CLASSES,
    OPTIONAL_PARTS,
    PARTS,
    ChainField,
    Part,
    PartField,
    as_part,
    part_field,
    with_long_names,
)
from fedguard.config.repair_times import RepairTimes
from fedguard.config.requests import UnlearnRequest, check_requests
from fedguard.config.sizes import bytes_of
from fedguard.errors import ConfigurationError
from fedguard.traits import traits_of

PathField = Annotated[Path, PlainSerializer(str, return_type=str)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


VERTICAL_DEFAULTS = {
    "attack": "none",
    "clients": 5,
    "rounds": 20,
    "batch_size": 64,
    "lr": 0.05,
    "momentum": 0.9,
}
"""Defaults that differ where the strategy is a vertical one: clients are parties, rounds epochs."""


class SimulationConfig(BaseModel):
    """Every knob of a run.

    The defaults are the main job: scikit-learn's handwritten digits, 20 clients of whom 4 lie.
    Part fields (`strategy`, `attack`, `dataset`, `model`, `partition`) hold a registered name, or
    ``package.module:Class``, with constructor arguments beside it.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, defer_build=True, use_attribute_docstrings=True
    )

    strategy: PartField = part_field("geminiguard")
    """Aggregation rule or defence of the server."""
    pre: ChainField = ()
    """Pre-aggregation in front of the strategy's rule; several in order: ``nnm,clipping``."""
    attack: PartField = part_field("sign-flip", scale=4.0)
    """What malicious clients do."""
    attack_knowledge: Literal["partial", "full"] = "partial"
    """What the attacker sees: its own clients' honest updates, or every honest update."""
    attack_rounds: Any = "all"
    """When it attacks: ``all``, ``{window: [5, 10]}``, ``{probability: 0.3}``, ``{single: 7}``."""
    dataset: PartField = part_field("digits")
    """Data set."""
    data_dir: PathField | None = None
    """Folder of the data set's files, where it needs any."""
    model: PartField = part_field("mlp")
    """Network that is trained."""
    latent_layer: str | None = None
    """Submodule whose output is the latent representation; the model's own choice if left out."""
    start_from: PathField | None = None
    """Model that training starts from: a .safetensors file, or the directory of a finished run."""
    clients: int = Field(20, ge=1, le=1_000_000)
    """Number of clients K."""
    fraction: float = Field(1.0, gt=0.0, le=1.0)
    """Share of the clients asked in each round."""
    malicious: float = Field(0.2, ge=0.0, le=1.0)
    """Share of the clients that lie; defences never see it."""
    poisoned_clients: float = Field(0.0, ge=0.0, le=1.0)
    """Share of the clients that are honest, but whose data a third party poisoned; no defence and
    no client sees it."""
    assumed_malicious: float = Field(0.25, ge=0.0, lt=0.5)
    """Share that a defence assumes, where its rule needs a bound."""
    partition: PartField = part_field("dirichlet")
    """How the training data are divided among clients."""
    server_samples: int = Field(100, ge=0)
    """Auxiliary examples that the server holds; in no client's shard and not in the test set."""
    server_draw: Literal["random", "balanced"] = "random"
    """How they are drawn: as they come, or balanced over classes."""
    server_classes: float = Field(1.0, gt=0.0, le=1.0)
    """Share of the classes that the server holds examples of."""
    server_label_noise: float = Field(0.0, ge=0.0, le=1.0)
    """Share of the server's labels that are wrong."""
    evaluate_clients: float = Field(0.0, ge=0.0, le=0.9)
    """Share of each client's rows kept out of its training, on which the global model is judged
    client by client; 0: not."""
    rounds: int = Field(20, ge=1, le=1_000_000)
    """Server rounds; more of them than a finished run has, with ``--resume``, go on with it."""
    patience: int | None = Field(None, ge=1)
    """Rounds without a better model after which the run ends; it runs to its end if left out."""
    best_by: Literal["headline", "attack-success"] = "headline"
    """What the best model is chosen by: the task's headline, or the attack's least success."""
    training: PartField = part_field("sgd")
    """How a client trains: optimiser, schedule, loss; what the server's messages say is obeyed."""
    local_epochs: int = Field(3, ge=1)
    """Passes of a client over its shard per round."""
    batch_size: int = Field(16, ge=1)
    """Examples per SGD step."""
    lr: float = Field(0.1, gt=0.0, le=1000.0)
    """Learning rate of local SGD."""
    momentum: float = Field(0.0, ge=0.0, lt=1.0)
    """Momentum of local SGD."""
    weight_decay: float = Field(0.0, ge=0.0, le=10.0)
    """L2 penalty of local SGD."""
    engine: Literal["auto", "inprocess", "ray", "flower"] = "auto"
    """Where clients run."""
    executor: Literal["auto", "timed", "reuse", "vmap", "dense", "conv"] = "auto"
    """How they are trained: one by one, or in batches; ``auto`` goes by model and device,
    ``timed`` by measurement."""
    workers: int | None = Field(None, ge=1, le=10_000)
    """Ray actors, or threads of this process; one per core or GPU if left out. Changes no result,
    but for batched executors on Ray."""
    ray_address: str | None = None
    """A running Ray cluster, ``host:port``, for engine ray; one of its own if left out."""
    update_memory: str | None = None
    """Memory that a round's updates may take, such as ``4GB``; what does not fit lies in a file,
    which rules read in blocks. Left out, they must fit into the machine's."""
    update_dir: PathField | None = None
    """Folder of that file, which is gone when the run ends, however it ends; the run directory if
    left out."""
    update_type: Literal["float32", "bfloat16"] = "float32"
    """How the file keeps a number; bfloat16 takes half the room and rounds to 0.4 %."""
    updates_on: Literal["server", "workers"] = "server"
    """Where a round's updates lie: in the process that aggregates, or, with engine ray, on the
    workers that made them, which aggregate them column by column."""
    client_app: PartField | None = None
    """A Flower ClientApp of your own, ``package.module:app``, in place of fedguard's client; what
    stands beside the name is its run configuration."""
    client_config: dict[str, bool | int | float | str] = {}
    """What the server's training messages say to every client, beside what the strategy says; a
    client app of your own is sent lr, local-epochs and batch-size as well."""
    round_timeout: float = Field(3600.0, gt=0.0)
    """Seconds that the server waits for the replies of a round; clients on a network can vanish."""
    join_timeout: float = Field(120.0, ge=0.0)
    """Seconds that the server waits for all clients before the first round of a deployment."""
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    faults: Faults = Faults()
    """What breaks on the way from clients to server: ``{dropout: 0.3, corrupt: 0.1}``."""
    repair: PartField | None = None
    """What the server does to the model after aggregation, behind any strategy."""
    repair_at: str = "end"
    """When it is repaired: ``end``, ``every:R``, or ``alarm`` of the audit."""
    audit: PartField | None = None
    """What looks at the model and says what it found; changes nothing."""
    enrolment: PartField | None = None
    """Who admits clients' replies before the strategy sees them."""
    unlearn: tuple[UnlearnRequest, ...] = ()
    """What the federation is asked to forget: ``[{client: 3, round: 20}]``; with strategy soul."""
    check_plugins: bool = True
    """Whether a third party's strategy or attack passes a quick conformance check first."""
    seed: Seed = 0
    """Seed of everything random in the run."""

    @model_validator(mode="before")
    @classmethod
    def _own_defaults(cls, values: Any) -> Any:
        """Fill in what a vertical strategy, or a data set's task, does where nothing is said."""
        if not isinstance(values, Mapping):
            return values
        strategy, dataset = _name_in(values, "strategy"), _name_in(values, "dataset")
        vertical = strategy is not None and registry.is_vertical(strategy)
        own = registry.find("dataset", dataset) if dataset is not None else None
        defaults = getattr(own, "defaults", {}) if not vertical else VERTICAL_DEFAULTS
        counted = getattr(own, "defaults_of", None)
        if counted is not None and not vertical:
            given = _arguments_in(values, "dataset")
            defaults = {**defaults, **counted(given, values.get("data_dir"))}
        return {**defaults, **values, **_attack_in(values)}

    @model_validator(mode="after")
    def _check_parts(self) -> SimulationConfig:
        for kind, part in self.parts():
            given = part.arguments
            if kind == "attack":
                # Whether a class of that name is there, the data set will say.
                named = {name for name in CLASSES if isinstance(given.get(name), str)}
                given = {n: 0 if n in named else value for n, value in given.items()}
            registry.check_arguments(kind, registry.find(kind, part.name), given)
            check_not_filled_in(kind, part.arguments)
        RepairTimes(self.repair_at)
        if self.repair_at == "alarm" and self.repair is not None and self.audit is None:
            raise ConfigurationError("repair_at", "alarm", "end or every:R; alarm needs an audit")
        return self

    def parts(self) -> list[tuple[str, Part]]:
        """Return every part with its kind: those that are always there, then those that are set."""
        always = [(kind, getattr(self, kind)) for kind in PARTS]
        chosen = [(kind, getattr(self, kind)) for kind in OPTIONAL_PARTS]
        chain = [("pre", part) for part in self.pre]
        return [*always, *chain, *((kind, part) for kind, part in chosen if part is not None)]

    @model_validator(mode="after")
    def _check_engine(self) -> SimulationConfig:
        if self.engine == "flower" and self.executor not in ("auto", "reuse"):
            raise ConfigurationError("executor", self.executor, "auto or reuse with engine flower")
        if self.engine == "ray" and self.unlearn:
            raise ConfigurationError("engine", "ray", "inprocess where clients are to forget")
        return self

    @model_validator(mode="after")
    def _check_unlearning(self) -> SimulationConfig:
        strategy = registry.find("strategy", self.strategy.name)
        if self.unlearn and not traits_of(strategy).requests:
            allowed = f"nothing with strategy {self.strategy.name}; soul unlearns"
            raise ConfigurationError("unlearn", f"{len(self.unlearn)} requests", allowed)
        check_requests(self.unlearn, self.clients, self.rounds)
        return self

    @model_validator(mode="after")
    def _check_combinations(self) -> SimulationConfig:
        repair_at = self.repair_at if self.repair is not None else None
        check_stopping(self.patience, repair_at, len(self.unlearn))
        check_start(self.start_from, len(self.unlearn))
        check_evaluation(self.evaluate_clients, own_clients=self.client_app is not None)
        if self.update_memory is not None:
            bytes_of("update_memory", self.update_memory)
        elif self.update_dir is not None or self.update_type != "float32":
            field = "update_dir" if self.update_dir is not None else "update_type"
            told = "nothing without update_memory, above which updates lie in a file"
            raise ConfigurationError(field, str(getattr(self, field)), told)
        if self.updates_on == "workers":
            if self.engine != "ray":
                told = "server with that engine; --engine ray has workers"
                raise ConfigurationError("updates_on", "workers", told)
            if self.update_memory is not None:
                told = "nothing with updates_on=workers: none is in the server's memory"
                raise ConfigurationError("update_memory", self.update_memory, told)
        return self

    def resolved(self) -> dict[str, Any]:
        """Return the configuration as plain values, parts' own defaults filled in."""
        plain = self.model_dump(mode="json")
        for kind in (*PARTS, *OPTIONAL_PARTS):
            part: Part | None = getattr(self, kind)
            if part is not None:
                plain[kind] = _with_defaults(kind, part)
        return plain

    def digest(self, *, but: Iterable[str] = ()) -> str:
        """Return the SHA-256 of the resolved configuration, without what changes no result.

        Parameters
        ----------
        but : iterable of str
            More fields that are left out.
        """
        aside = {*PLACE, *but}
        identity = {key: value for key, value in self.resolved().items() if key not in aside}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


PLACE = frozenset(
    {"data_dir", "workers", "ray_address", "update_memory", "update_dir", "updates_on"}
)
"""Fields that say where a run happens, not what it does."""

LENGTH = frozenset({"rounds"})
"""Fields in which a run that goes on may differ from the one that it goes on with."""


def _attack_in(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attack with its arguments' long names, under its field; nothing if not given."""
    name, given = _name_in(values, "attack"), values.get("attack")
    if name is None or not isinstance(given, Mapping):
        return {}
    known = registry.parameters(registry.find("attack", name))
    return {"attack": with_long_names(given, known)}


def _name_in(values: Mapping[str, Any], field: str) -> str | None:
    """Return the name of a part in unchecked values, None where there is none."""
    part = as_part(values.get(field))
    name = part.get("name") if isinstance(part, Mapping) else getattr(part, "name", None)
    return name if isinstance(name, str) else None


def _arguments_in(values: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """Return a part's arguments in unchecked values."""
    part = as_part(values.get(field))
    if isinstance(part, Part):
        return part.arguments
    return {k: v for k, v in part.items() if k != "name"} if isinstance(part, Mapping) else {}


def _with_defaults(kind: str, part: Part) -> dict[str, Any]:
    """Return a part as plain values, its own defaults filled in."""
    known = registry.parameters(registry.find(kind, part.name))
    defaults = {
        name: parameter.default
        for name, parameter in known.items()
        if not parameter.required and _is_plain(parameter.default) and name not in FILLED_IN
    }
    return {"name": part.name, **_plain(defaults), **_plain(part.arguments)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(dict(values), default=str))  # type: ignore[no-any-return]
