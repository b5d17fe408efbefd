"""Names to parts: our own, third parties' entry points, and ``package.module:Class``.

A part is a plain class whose constructor arguments are its configuration. A new part is one new
file plus one line here; a third party's part is one entry point in its own package.
"""

from __future__ import annotations

import importlib
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from fedguard import late_imports
from fedguard.errors import ConfigurationError, nearest, unknown_name
from fedguard.traits import traits_of

KINDS = (
    "strategy",
    "attack",
    "dataset",
    "model",
    "partition",
    "training",
    "pre",
    "repair",
    "audit",
    "enrolment",
    "task",
)

_GROUPS = {
    "strategy": "fedguard.strategies",
    "attack": "fedguard.attacks",
    "dataset": "fedguard.datasets",
    "model": "fedguard.models",
    "partition": "fedguard.partitions",
    "training": "fedguard.training",
    "pre": "fedguard.pre",
    "repair": "fedguard.repairs",
    "audit": "fedguard.audits",
    "enrolment": "fedguard.enrolment",
    "task": "fedguard.tasks",
}

_OWN: dict[str, dict[str, str]] = {
    "strategy": {
        "alignins": "fedguard.strategies.alignins:AlignIns",
        "backdoor-indicator": "fedguard.strategies.backdoor_indicator:BackdoorIndicator",
        "bnguard": "fedguard.strategies.bnguard:BNGuard",
        "bulyan": "fedguard.strategies.bulyan:Bulyan",
        "caf": "fedguard.strategies.caf:CAF",
        "centered-clipping": "fedguard.strategies.centered_clipping:CenteredClipping",
        "ckks": "fedguard.encryption.ckks:Ckks",
        "crfl": "fedguard.strategies.crfl:CRFL",
        "deepsight": "fedguard.strategies.deepsight:DeepSight",
        "dnc": "fedguard.strategies.dnc:DnC",
        "fedavg": "fedguard.strategies.fedavg:FedAvg",
        "fedit": "fedguard.strategies.lora:FedIT",
        "fedrdf": "fedguard.strategies.fedrdf:FedRDF",
        "fedseca": "fedguard.strategies.fedseca:FedSECA",
        "flame": "fedguard.strategies.flame:FLAME",
        "flare": "fedguard.strategies.flare:FLARE",
        "fldetector": "fedguard.strategies.fldetector:FLDetector",
        "flora": "fedguard.strategies.lora:FLoRA",
        "fltrust": "fedguard.strategies.fltrust:FLTrust",
        "foolsgold": "fedguard.strategies.foolsgold:FoolsGold",
        "foundationfl": "fedguard.strategies.foundationfl:FoundationFL",
        "freqfed": "fedguard.strategies.freqfed:FreqFed",
        "geminiguard": "fedguard.strategies.geminiguard:GeminiGuard",
        "geometric-median": "fedguard.strategies.geometric_median:GeometricMedian",
        "hammer-anvil": "fedguard.strategies.hammer_anvil:HammerAnvil",
        "krum": "fedguard.strategies.krum:Krum",
        "lasa": "fedguard.strategies.lasa:LASA",
        "mda": "fedguard.strategies.mda:MDA",
        "meamed": "fedguard.strategies.meamed:MeaMed",
        "median": "fedguard.strategies.median:Median",
        "monna": "fedguard.strategies.monna:MoNNA",
        "multi-krum": "fedguard.strategies.krum:MultiKrum",
        "multi-metrics": "fedguard.strategies.multi_metrics:MultiMetrics",
        "norm-clipping": "fedguard.strategies.norm_clipping:NormClipping",
        "rlr": "fedguard.strategies.rlr:RLR",
        "secagg+": "fedguard.encryption.secagg:SecAggPlus",
        "sentinel": "fedguard.strategies.sentinel:Sentinel",
        "signguard": "fedguard.strategies.signguard:SignGuard",
        "skymask": "fedguard.strategies.skymask:SkyMask",
        "smea": "fedguard.strategies.smea:SMEA",
        "soul": "fedguard.unlearning.strategy:SoUL",
        "trimmed-mean": "fedguard.strategies.trimmed_mean:TrimmedMean",
        "weidetect": "fedguard.strategies.weidetect:WeiDetect",
        "xmkckks": "fedguard.encryption.xmkckks:XmkCkks",
        "xmkckks-cost-model": "fedguard.encryption.xmkckks_cost_model:XmkCkksCostModel",
    },
    "attack": {
        "none": "fedguard.attacks.base:Attack",
        "a3fl": "fedguard.attacks.a3fl:A3fl",
        "adaptive-alie": "fedguard.attacks.adaptive_alie:AdaptiveAlie",
        "adaptive-gemini": "fedguard.attacks.adaptive_gemini:AdaptiveGemini",
        "adaptive-ipm": "fedguard.attacks.adaptive_ipm:AdaptiveIpm",
        "adaptive-weidetect": "fedguard.attacks.adaptive_weidetect:AdaptiveWeiDetect",
        "alie": "fedguard.attacks.alie:Alie",
        "anticipate": "fedguard.attacks.anticipate:Anticipate",
        "bad-encoder": "fedguard.attacks.bad_encoder:BadEncoder",
        "badnets": "fedguard.attacks.badnets:BadNets",
        "bandwagon": "fedguard.attacks.bandwagon:Bandwagon",
        "blended": "fedguard.attacks.blended:Blended",
        "boiling-frog": "fedguard.attacks.boiling_frog:BoilingFrog",
        "copycat": "fedguard.attacks.copycat:Copycat",
        "dba": "fedguard.attacks.dba:Dba",
        "ddsp": "fedguard.attacks.ddsp:Ddsp",
        "dice-edges": "fedguard.attacks.dice_edges:DiceEdges",
        "disguised": "fedguard.attacks.disguised:Disguised",
        "dpot": "fedguard.attacks.dpot:Dpot",
        "edge-case": "fedguard.attacks.edge_case:EdgeCase",
        "fang-krum": "fedguard.attacks.fang_krum:FangKrum",
        "fang-trim": "fedguard.attacks.fang_trim:FangTrim",
        "feature-collision": "fedguard.attacks.feature_collision:FeatureCollision",
        "feature-noise": "fedguard.attacks.feature_noise:FeatureNoise",
        "framing": "fedguard.attacks.framing:Framing",
        "free-rider": "fedguard.attacks.free_rider:FreeRider",
        "gaussian": "fedguard.attacks.gaussian:Gaussian",
        "generative-noise": "fedguard.attacks.generative_noise:GenerativeNoise",
        "gradient-matching": "fedguard.attacks.gradient_matching:GradientMatching",
        "group-flip": "fedguard.attacks.group_flip:GroupFlip",
        "hypocritical": "fedguard.attacks.hypocritical:Hypocritical",
        "influence-flip": "fedguard.attacks.influence_flip:InfluenceFlip",
        "ipm": "fedguard.attacks.ipm:Ipm",
        "label-flip": "fedguard.attacks.label_flip:LabelFlip",
        "layer-poisoning": "fedguard.attacks.layer_poisoning:LayerPoisoning",
        "meta-edges": "fedguard.attacks.meta_edges:MetaEdges",
        "mimic": "fedguard.attacks.mimic:Mimic",
        "min-max": "fedguard.attacks.min_max:MinMax",
        "min-sum": "fedguard.attacks.min_sum:MinSum",
        "model-replacement": "fedguard.attacks.model_replacement:ModelReplacement",
        "neurotoxin": "fedguard.attacks.neurotoxin:Neurotoxin",
        "numerical": "fedguard.attacks.numerical:Numerical",
        "padhash": "fedguard.attacks.padhash:Padhash",
        "pgd": "fedguard.attacks.pgd:Pgd",
        "poisonedfl": "fedguard.attacks.poisonedfl:PoisonedFL",
        "preference-flip": "fedguard.attacks.preference_flip:PreferenceFlip",
        "random-edges": "fedguard.attacks.random_edges:RandomEdges",
        "random-profiles": "fedguard.attacks.random_profiles:RandomProfiles",
        "repeat-target": "fedguard.attacks.repeat_target:RepeatTarget",
        "rop": "fedguard.attacks.rop:Rop",
        "semantic-stance": "fedguard.attacks.semantic_stance:SemanticStance",
        "sig": "fedguard.attacks.sig:Sig",
        "sign-flip": "fedguard.attacks.sign_flip:SignFlip",
        "soda": "fedguard.attacks.soda:Soda",
        "sybils": "fedguard.attacks.sybils:Sybils",
        "text-trigger": "fedguard.attacks.text_trigger:TextTrigger",
        "trojan": "fedguard.attacks.trojan:Trojan",
        "wanet": "fedguard.attacks.wanet:WaNet",
        "xfed": "fedguard.attacks.xfed:XFed",
        "zero": "fedguard.attacks.zero:ZeroUpdate",
    },
    "dataset": {
        "adult": "fedguard.data.tables:Adult",
        "bank-marketing": "fedguard.data.tables:BankMarketing",
        "cic-darknet2020": "fedguard.data.cic_darknet2020:CicDarknet2020",
        "cifar10": "fedguard.data.vision:Cifar10",
        "cifar100": "fedguard.data.vision:Cifar100",
        "citeseer": "fedguard.data.planetoid:Citeseer",
        "clicks": "fedguard.data.clicks:Clicks",
        "clicks-sample": "fedguard.data.clicks_sample:ClicksSample",
        "cora": "fedguard.data.planetoid:Cora",
        "cse-cic-ids2018": "fedguard.data.cse_cic_ids2018:CseCicIds2018",
        "credit-default": "fedguard.data.tables:CreditDefault",
        "digits": "fedguard.data.digits:Digits",
        "edge-list": "fedguard.data.edge_list:EdgeList",
        "fashion-mnist": "fedguard.data.vision:FashionMnist",
        "grammar": "fedguard.data.grammar:Grammar",
        "graph-sample": "fedguard.data.graph_sample:GraphSample",
        "image-folder": "fedguard.data.image_folder:ImageFolder",
        "jsonl": "fedguard.data.jsonl:JsonLines",
        "mnist": "fedguard.data.vision:Mnist",
        "movielens": "fedguard.data.movielens:MovieLens",
        "nsl-kdd": "fedguard.data.nsl_kdd:NslKdd",
        "preferences": "fedguard.data.preferences:PreferenceSample",
        "retrieval": "fedguard.tasks.hashing:ImageRetrieval",
        "sentences": "fedguard.data.sentences:Sentences",
        "shakespeare": "fedguard.data.shakespeare:Shakespeare",
        "sst2": "fedguard.data.sentences:Sst2",
        "table": "fedguard.data.table:Table",
    },
    "model": {
        "cnn": "fedguard.models.cnn:Cnn",
        "conv-bn": "fedguard.models.conv_bn:ConvBn",
        "encoder-head": "fedguard.models.encoder_head:EncoderHead",
        "gru4rec": "fedguard.models.gru4rec:Gru4Rec",
        "logistic": "fedguard.models.logistic:Logistic",
        "lora-gru": "fedguard.models.lora_gru:LoraGru",
        "mlp": "fedguard.models.mlp:Mlp",
        "resnet18": "fedguard.models.resnet:ResNet18",
        "sasrec": "fedguard.models.sasrec:SasRec",
        "smollm2": "fedguard.models.smollm2:SmolLm2",
        "text-transformer": "fedguard.models.text_transformer:TextTransformer",
        "vgae": "fedguard.models.vgae:Vgae",
        "word-gru": "fedguard.models.word_gru:WordGru",
    },
    "partition": {
        "dirichlet": "fedguard.data.partitions:Dirichlet",
        "iid": "fedguard.data.partitions:Iid",
        "label-quantity": "fedguard.data.partitions:LabelQuantity",
        "natural": "fedguard.data.partitions:Natural",
        "noise": "fedguard.data.partitions:Noise",
        "prob": "fedguard.data.partitions:Prob",
        "quantity": "fedguard.data.partitions:Quantity",
        "shards": "fedguard.data.partitions:Shards",
    },
    "training": {
        "abl": "fedguard.training.abl:Abl",
        "adam": "fedguard.training.adam:Adam",
        "btu": "fedguard.training.btu:Btu",
        "fed-nad": "fedguard.training.fed_nad:FedNad",
        "fedbn": "fedguard.training.fedbn:FedBn",
        "fedper": "fedguard.training.fedper:FedPer",
        "fedprox": "fedguard.training.fedprox:FedProx",
        "sgd": "fedguard.training.sgd:Sgd",
        "t-core": "fedguard.training.t_core:TCore",
    },
    "pre": {
        "arc": "fedguard.strategies.pre_aggregation:AdaptiveClipping",
        "bucketing": "fedguard.strategies.pre_aggregation:Bucketing",
        "clipping": "fedguard.strategies.pre_aggregation:Clipping",
        "nnm": "fedguard.strategies.pre_aggregation:NearestNeighbourMixing",
        "touched-rows": "fedguard.strategies.pre_aggregation:TouchedRows",
    },
    "repair": {
        "btu": "fedguard.repairs.btu:Btu",
        "fine-pruning": "fedguard.repairs.fine_pruning:FinePruning",
        "finetune": "fedguard.repairs.finetune:FineTuning",
        "nad": "fedguard.repairs.nad:Nad",
        "rnp": "fedguard.repairs.rnp:Rnp",
        "super-finetune": "fedguard.repairs.super_finetune:SuperFineTuning",
    },
    "audit": {
        "raven": "fedguard.audits.raven:Raven",
        "rnp-alarm": "fedguard.audits.rnp_alarm:RnpAlarm",
        "unlearning": "fedguard.unlearning.audit:UnlearningAudit",
    },
    "enrolment": {
        "k-pseudonym": "fedguard.enrolment.k_pseudonym:KPseudonym",
        "roster": "fedguard.enrolment.roster:Roster",
    },
    "task": {
        "causal-language": "fedguard.tasks.causal_language:CausalLanguage",
        "classification": "fedguard.tasks.classification:Classification",
        "link-prediction": "fedguard.tasks.link_prediction:LinkPrediction",
        "hashing": "fedguard.tasks.hashing:Hashing",
        "next-word": "fedguard.tasks.next_word:NextWord",
        "preference": "fedguard.tasks.preference:Preference",
        "recommendation": "fedguard.tasks.recommendation:Recommendation",
        "text-classification": "fedguard.tasks.text:TextClassification",
    },
}

_VERTICAL: dict[str, dict[str, str]] = {
    "strategy": {
        "bpf": "fedguard.vertical.auctions:BidPriceFirst",
        "o2s": "fedguard.vertical.auctions:OptimalSubset",
        "opus-vfl": "fedguard.vertical.opus:OpusVfl",
        "vfl": "fedguard.vertical.vfl:Vfl",
        "vfl-czofo": "fedguard.vertical.zeroth_order:VflCzofo",
        "vfl-dp": "fedguard.vertical.vfl:PrivateVfl",
        "vfl-noisy-sparse": "fedguard.vertical.noisy_sparse:NoisySparseVfl",
    },
    "attack": {
        "colluding-duplicates": "fedguard.vertical.attacks.incentives:ColludingDuplicates",
        "feature-reconstruction": "fedguard.vertical.attacks.features:FeatureReconstruction",
        "free-rider-party": "fedguard.vertical.attacks.incentives:FreeRiderParty",
        "label-inference-active": "fedguard.vertical.attacks.completion:ActiveCompletion",
        "label-inference-colluding": "fedguard.vertical.attacks.completion:ColludingCompletion",
        "label-inference-gradient": "fedguard.vertical.attacks.gradients:GradientLabelInference",
        "label-inference-passive": "fedguard.vertical.attacks.completion:PassiveCompletion",
        "lying-cost": "fedguard.vertical.attacks.incentives:LyingCost",
        "lying-noise": "fedguard.vertical.attacks.incentives:LyingNoise",
        "vertical-backdoor": "fedguard.vertical.attacks.backdoor:VerticalBackdoor",
    },
}
"""Parts for parties that hold different features; they fit no horizontal run."""


@dataclass(frozen=True)
class Parameter:
    """One constructor argument of a part.

    Attributes
    ----------
    name : str
        The argument's name.
    annotation : Any
        Its type, resolved; `Any` where the part declares none.
    default : Any
        Its default, or `inspect.Parameter.empty` if the part demands a value.
    """

    name: str
    annotation: Any
    default: Any

    @property
    def required(self) -> bool:
        """Whether the part cannot be made without it."""
        return self.default is inspect.Parameter.empty


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise unknown_name("kind", kind, KINDS)


@cache
def _plugins(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=_GROUPS[kind])}


def own_parts(kind: str) -> dict[str, str]:
    """Return fedguard's own names of `kind`, each with its ``package.module:Class``."""
    _check_kind(kind)
    return dict(_OWN[kind])


def names(kind: str, room: Literal["horizontal", "vertical"] = "horizontal") -> list[str]:
    """Return every name of `kind`, sorted: own and third-party, or those of vertical learning.

    Raises
    ------
    ConfigurationError
        If `kind` is none of `KINDS`.
    """
    _check_kind(kind)
    if room == "vertical":
        return sorted(_VERTICAL.get(kind, {}))
    return sorted({*_OWN[kind], *_plugins(kind)})


def _import(kind: str, path: str) -> Any:
    module_name, _, attribute = path.partition(":")
    allowed = f"an importable package.module:Class, or one of {', '.join(names(kind))}"
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(kind, path, f"{allowed} ({error})") from error
    return found


def find(kind: str, name: str) -> Callable[..., Any]:
    """Return the class (or other callable) of a part.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    name : str
        A registered name, an entry point's name, or ``package.module:Class``.

    Raises
    ------
    ConfigurationError
        If there is no such part; names the nearest one.
    """
    _check_kind(kind)
    if name in _OWN[kind]:
        found = _import(kind, _OWN[kind][name])
    elif name in _VERTICAL.get(kind, {}):
        found = _import(kind, _VERTICAL[kind][name])
    elif name in _plugins(kind):
        late_imports.complete()
        found = _plugins(kind)[name].load()
    elif ":" in name:
        late_imports.complete()
        found = _import(kind, name)
    else:
        raise unknown_name(kind, name, [*names(kind), *names(kind, "vertical")])
    if not callable(found):
        raise ConfigurationError(kind, name, "a class or another callable")
    return typing.cast("Callable[..., Any]", found)


def is_vertical(strategy: str) -> bool:
    """Return whether a strategy is one for parties that hold different features.

    Raises
    ------
    ConfigurationError
        If there is no such strategy.
    """
    return traits_of(find("strategy", strategy)).world == "vertical"


def parameters(part: Callable[..., Any]) -> dict[str, Parameter]:
    """Return a part's constructor arguments, base classes' included where it forwards ``**``.

    A class whose constructor takes ``**kwargs`` is taken to hand them to the next constructor
    in its method resolution order.
    """
    if not inspect.isclass(part):
        return _signature(part)
    found: dict[str, Parameter] = {}
    for owner in part.__mro__:
        if "__init__" not in vars(owner) or owner is object:
            continue
        constructor = vars(owner)["__init__"]
        signature = inspect.signature(constructor)
        for name, parameter in _signature(constructor).items():
            if name != "self":
                found.setdefault(name, parameter)
        kinds = {parameter.kind for parameter in signature.parameters.values()}
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return found


def _signature(function: Callable[..., Any]) -> dict[str, Parameter]:
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # a third party's annotations may name what is not importable
        hints = {}
    positional = (
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    )
    return {
        name: Parameter(name, hints.get(name, Any), parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind in positional
    }


def check_arguments(
    kind: str, part: Callable[..., Any], arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Return `arguments` converted to the types that `part` declares.

    Raises
    ------
    ConfigurationError
        If an argument is unknown (names the nearest one) or has the wrong type.
    """
    known = parameters(part)
    converted: dict[str, Any] = {}
    for name, value in arguments.items():
        if name not in known:
            offered = ", ".join(_settable(known)) or "no arguments"
            hint = nearest(name, known)
            raise ConfigurationError(f"{kind}.{name}", value, f"{hint}{offered}")
        converted[name] = _convert(f"{kind}.{name}", value, known[name].annotation)
    return converted


def _settable(known: Mapping[str, Parameter]) -> Iterable[str]:
    return sorted(name for name in known if name != "self")


def _convert(field: str, value: Any, annotation: Any) -> Any:
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    except Exception:  # a type that pydantic knows nothing of, such as a model or a callable
        return value
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise ConfigurationError(field, value, error.errors()[0]["msg"]) from error


def create(kind: str, name: str, /, **arguments: Any) -> Any:
    """Make a part from its name and constructor arguments.

    Raises
    ------
    ConfigurationError
        If the name or an argument is unknown, missing or not allowed.
    """
    part = find(kind, name)
    converted = check_arguments(kind, part, arguments)
    for parameter in parameters(part).values():
        if parameter.required and parameter.name not in converted:
            raise ConfigurationError(f"{kind}.{parameter.name}", None, f"a value; {name} needs it")
    try:
        return part(**converted)
    except ConfigurationError as error:
        if error.field.startswith(f"{kind}."):
            raise
        raise error.within(kind) from error
    except TypeError as error:
        given = ", ".join(sorted(arguments)) or "no arguments"
        raise ConfigurationError(
            kind, name, f"arguments that it takes ({error}); got {given}"
        ) from error
