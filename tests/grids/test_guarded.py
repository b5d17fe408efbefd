"""A rule before strategies that are not ours: peace changes nothing, liars change nothing."""

from __future__ import annotations

import gc
import random
from logging import WARNING

import numpy as np
import pytest
import torch
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedProx,
    FedYogi,
    QFedAvg,
    Strategy,
)
from foreign_servers import (
    CLIENTS,
    TARGET,
    PullingGrid,
    absurd_claim,
    distance,
    failing,
    first_arrays,
    misshapen,
    nan_loss,
    negative_loss,
    not_a_number,
    other_metrics,
    reply,
    scaled,
    twice,
    without_bias,
)
from torch import nn

import fedguard
from fedguard.errors import ConfigurationError, RunError
from fedguard.strategies import FLTrust, FoolsGold, Median, MultiKrum, TrimmedMean
from fedguard.strategies.base import RobustStrategy, uniform, weighted_mean
from fedguard.updates import Verdict


@pytest.fixture(autouse=True, scope="module")
def frozen():
    """Keep what is loaded from the collector: q-FedAvg collects once for every reply."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class OwnStrategy(FedAvg):
    """A user's own: the plain mean of what comes, whatever clients claim."""

    def aggregate_train(self, server_round, replies):
        models = [m.content["arrays"].to_numpy_ndarrays() for m in replies if m.has_content()]
        if not models:
            return None, None
        means = [np.mean(layer, axis=0) for layer in zip(*models, strict=True)]
        return ArrayRecord(dict(zip(("weight", "bias"), map(Array, means), strict=True))), None


def adaptive_privacy(**rest):
    inner = FedAvg(**rest)
    return DifferentialPrivacyServerSideAdaptiveClipping(
        inner, 0.0, CLIENTS, clipped_count_stddev=0.0001, initial_clipping_norm=5.0
    )


def privacy(**rest):
    return DifferentialPrivacyServerSideFixedClipping(FedAvg(**rest), 0.0, 0.4, CLIENTS)


class Uniform(RobustStrategy):
    """Every client alike; nobody is rejected."""

    def combine(self, updates):
        weights = uniform(len(updates))
        return Verdict(weighted_mean(updates.deltas, weights), weights)


STRATEGIES = {
    "fedavg": FedAvg,
    "fedadam": lambda **rest: FedAdam(eta=0.1, tau=0.05, **rest),
    "fedyogi": lambda **rest: FedYogi(eta=0.1, tau=0.05, **rest),
    "fedavgm": lambda **rest: FedAvgM(server_momentum=0.3, **rest),
    "fedprox": lambda **rest: FedProx(proximal_mu=0.1, **rest),
    "qfedavg": lambda **rest: QFedAvg(client_learning_rate=0.5, q=0.2, **rest),
    "privacy": privacy,
    "adaptive": adaptive_privacy,
    "own": OwnStrategy,
}


def trained(strategy: Strategy, grid, rounds: int = 12, arrays=None) -> ArrayRecord:
    random.seed(3)
    np.random.seed(3)
    start = first_arrays() if arrays is None else arrays
    found = strategy.start(grid=grid, initial_arrays=start, num_rounds=rounds).arrays
    return found if len(found) else start  # Flower's result is empty where no round trained


def gap(one: ArrayRecord, other: ArrayRecord) -> float:
    return max(float(np.abs(one[n].numpy() - other[n].numpy()).max()) for n in one)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_a_rule_that_accepts_all_changes_nothing(name):
    plain = trained(STRATEGIES[name](), PullingGrid())
    rule = Uniform() if name == "own" else "fedavg"
    guarded = trained(STRATEGIES[name](), fedguard.Guarded(PullingGrid(), rule))
    assert gap(plain, guarded) <= 1e-5
    assert gap(plain, first_arrays()) > 0.2  # it learnt something


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_it_stands_under_attack_where_it_falls_unguarded(name):
    lies = {client: scaled(60.0) for client in (1, 4)}
    rule = {}
    if name in ("privacy", "adaptive"):  # clipping bounds a liar; it takes more of them
        lies = {client: scaled(60.0) for client in (1, 4, 6, 8)}
        rule = {"assumed_malicious": 0.4}
    guarded = fedguard.Guarded(PullingGrid(lies), "multi-krum", **rule)
    peace = distance(trained(STRATEGIES[name](), PullingGrid()))
    fallen = distance(trained(STRATEGIES[name](), PullingGrid(lies)))
    standing = distance(trained(STRATEGIES[name](), guarded))
    assert standing < peace + 0.1
    assert fallen > peace + 0.2
    assert fallen > 2.0 * standing


SPOILT = {
    failing: "error reply: my disk is full",
    without_bias: "missing array 'bias'",
    misshapen: "bias has shape (5,), expected (2,)",
    not_a_number: "not a number (NaN) in the update",
    absurd_claim: "num-examples of 1e+15",
    other_metrics: "metric 'train_loss' is missing, for most it is a number",
    nan_loss: "metric 'train_loss' is not finite, for most it is a number",
    lambda message, model: [reply(message, {**model, "spare": np.zeros(1)})]: (
        "unexpected array 'spare'"
    ),
    lambda message, model: [reply(message, {**model, "bias": np.zeros(2, complex)})]: (
        "bias holds complex128, expected numbers"
    ),
    lambda message, model: []: "no reply",
}


@pytest.mark.parametrize("lie", SPOILT, ids=SPOILT.values())
def test_a_malformed_reply_is_set_aside_by_name_and_reason(lie):
    inner = PullingGrid({3: lie}, first_node=2**63)
    grid = fedguard.Guarded(inner, "fedavg")
    arrays = trained(FedAvg(), grid, rounds=6)
    assert distance(arrays) < 0.1
    for judged in grid.rounds:
        assert judged.set_aside == {2**63 + 3: SPOILT[lie]}
        assert judged.accepted == {2**63 + client for client in range(CLIENTS)} - {2**63 + 3}


def test_a_second_reply_does_not_count():
    grid = fedguard.Guarded(PullingGrid({3: twice}), "fedavg")
    honest = fedguard.Guarded(PullingGrid({3: lambda m, model: reply(m, model)}), "fedavg")
    assert gap(trained(FedAvg(), grid), trained(FedAvg(), honest)) == 0.0


def test_a_negative_loss_does_not_make_q_fedavg_nan():
    lies = {3: negative_loss}
    assert distance(trained(STRATEGIES["qfedavg"](), PullingGrid(lies))) == np.inf
    for rule in ("multi-krum", "fedavg"):  # the second accepts the liar as well
        grid = fedguard.Guarded(PullingGrid(lies), rule)
        assert distance(trained(STRATEGIES["qfedavg"](), grid)) < 0.4


def test_a_rule_that_goes_less_far_than_the_average_of_whom_it_weighs_is_obeyed():
    class Halved(RobustStrategy):
        """As clipping rules do: the average by the claims, and half of the way."""

        def combine(self, updates):
            weights = (updates.num_examples / updates.num_examples.sum()).float()
            return Verdict(0.5 * weighted_mean(updates.deltas, weights), weights)

    whole = trained(FedAvg(), PullingGrid(), rounds=1)
    half = trained(FedAvg(), fedguard.Guarded(PullingGrid(), Halved()), rounds=1)
    for name in whole:
        np.testing.assert_allclose(half[name].numpy(), whole[name].numpy() / 2.0, atol=1e-6)


class Watching(FedAvg):
    """Keeps what it was handed."""

    def aggregate_train(self, server_round, replies):
        self.seen = list(replies)
        return super().aggregate_train(server_round, self.seen)


def test_every_accepted_reply_holds_the_model_plus_the_aggregate_and_its_own_metrics():
    strategy, inner = Watching(), PullingGrid({1: scaled(60.0)})
    grid = fedguard.Guarded(inner, TrimmedMean(assumed_malicious=0.1))
    arrays = trained(strategy, grid, rounds=1)
    deltas = []
    for client in range(CLIENTS):
        message = Message(
            RecordDict({"arrays": first_arrays(), "config": ConfigRecord()}), client, "train"
        )
        (answer,) = inner._answers(message)
        deltas.append(answer.content["arrays"]["weight"].numpy())
    middle = np.sort(np.stack(deltas), axis=0)[1:-1].mean(axis=0)
    assert len(strategy.seen) == CLIENTS
    for answer in strategy.seen:
        np.testing.assert_allclose(answer.content["arrays"]["weight"].numpy(), middle, atol=1e-6)
        assert answer.content["arrays"]["weight"].numpy().dtype == np.float32
        told = dict(answer.content["metrics"])
        client = answer.metadata.src_node_id
        if client != 1:
            assert told == {"num-examples": 10 + client, "train_loss": 0.3 + 0.01 * client}
    np.testing.assert_allclose(arrays["weight"].numpy(), middle, atol=1e-6)


@pytest.mark.parametrize("name", ["privacy", "adaptive"])
def test_a_reply_that_fails_stops_flowers_privacy_and_not_a_guarded_one(name):
    peace = distance(trained(STRATEGIES[name](), PullingGrid()))
    assert distance(trained(STRATEGIES[name](), PullingGrid({1: failing}))) > peace + 0.3
    guarded = fedguard.Guarded(PullingGrid({1: failing}))
    assert distance(trained(STRATEGIES[name](), guarded)) < peace + 0.1


def test_who_is_rejected_is_not_handed_on():
    strategy = Watching()
    grid = fedguard.Guarded(PullingGrid({1: scaled(60.0)}), MultiKrum(assumed_malicious=0.1))
    trained(strategy, grid, rounds=2)
    handed = {answer.metadata.src_node_id for answer in strategy.seen}
    assert 1 not in handed
    assert handed == grid.rounds[-1].accepted
    assert 1 in grid.rounds[-1].rejected
    assert grid.rounds[-1].server_round == 2


def test_messages_to_evaluate_pass_and_what_fits_comes_back_as_it_is():
    inner = PullingGrid({1: scaled(60.0)})
    grid = fedguard.Guarded(inner, Median())
    result = FedAvg().start(grid=grid, initial_arrays=first_arrays(), num_rounds=1)
    kinds = [kind for kind, _ in inner.asked]
    assert kinds.count("evaluate") == CLIENTS
    expected = distance(result.arrays)
    assert result.evaluate_metrics_clientapp[1]["distance"] == pytest.approx(expected)
    assert len(grid.rounds) == 1


def test_double_precision_stays_double():
    plain = trained(FedAvg(), PullingGrid(), arrays=first_arrays(np.float64))
    grid = fedguard.Guarded(PullingGrid({1: scaled(60.0)}), Median())
    guarded = trained(FedAvg(), grid, arrays=first_arrays(np.float64))
    assert guarded["bias"].numpy().dtype == plain["bias"].numpy().dtype == np.float64


def test_a_rule_with_a_history_gets_numbers_that_last():
    seen = []
    rule = FoolsGold()
    rule.observers.append(lambda _, updates, __: seen.append(updates.node_ids))
    trained(FedAvg(fraction_train=0.6), fedguard.Guarded(PullingGrid(first_node=2**63), rule))
    assert {node for nodes in seen for node in nodes} == set(range(CLIENTS))
    assert all(nodes == tuple(sorted(nodes)) for nodes in seen)
    state = rule.state()
    assert all(tensor.isfinite().all() for tensor in state.values())


class Net(nn.Linear):
    """What the federation's model is, with a place to look into it."""

    def __init__(self, *sizes) -> None:
        super().__init__(*sizes)
        self.hidden = nn.Identity()


def test_a_rule_that_needs_the_servers_data_gets_them_or_is_refused():
    with pytest.raises(ConfigurationError, match="fltrust with model=net, server_data"):
        fedguard.Guarded(PullingGrid(), "fltrust")
    net = Net(3, 2)
    torch.manual_seed(0)
    x = torch.randn(200, 3)
    logits = x @ torch.tensor(TARGET["weight"]).float().T + torch.tensor(TARGET["bias"]).float()
    data = (x, logits.argmax(1))
    lent = {"model": net, "server_data": data}
    lies = dict.fromkeys(range(6), scaled(5.0))
    grid = fedguard.Guarded(PullingGrid(lies), "fltrust", latent_layer="hidden", **lent)
    assert isinstance(grid.rule, FLTrust)
    trained(FedAvg(), grid, rounds=3)
    assert all(judged.accepted == {6, 7, 8, 9} for judged in grid.rounds)
    lent["model"] = Net(4, 2)
    other = fedguard.Guarded(PullingGrid(), "fltrust", latent_layer="hidden", **lent)
    with pytest.raises(ConfigurationError, match="the rule's own model, 2 arrays with 10 numbers"):
        trained(FedAvg(), other)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("ckks", "reads clients' updates"),
        ("soul", "reads clients' updates"),
        ("backdoor-indicator", "reads clients' updates|server_data"),
        ("flwr.serverapp.strategy:FedMedian", "one of fedguard's rules"),
        ("multi-crum", "did you mean"),
    ],
)
def test_what_cannot_stand_before_a_strategy_is_refused_at_once(rule, words):
    with pytest.raises(ConfigurationError, match=words):
        fedguard.Guarded(PullingGrid(), rule)


def test_trees_as_bytes_are_refused_in_one_line():
    grid = fedguard.Guarded(PullingGrid(), "median")
    trees = ArrayRecord([np.frombuffer(b"tree", dtype=np.uint8)])
    with pytest.raises(ConfigurationError, match="trees as bytes have no average"):
        trained(FedAvg(), grid, arrays=trees)


def test_training_that_is_pushed_is_refused():
    message = Message(RecordDict({"arrays": first_arrays()}), 1, MessageType.TRAIN)
    grid = fedguard.Guarded(PullingGrid(), "median")
    with pytest.raises(RunError, match="a whole round"):
        grid.push_messages([message])
    query = Message(RecordDict({"arrays": first_arrays()}), 1, MessageType.EVALUATE)
    assert len(list(grid.pull_messages(grid.push_messages([query])))) == 1


def test_a_strategy_with_a_model_for_each_client_is_refused():
    class Personal(FedAvg):
        def configure_train(self, server_round, arrays, config, grid):
            found = list(super().configure_train(server_round, arrays, config, grid))
            for place, message in enumerate(found):
                own = {n: Array(a.numpy() + place) for n, a in arrays.items()}
                message.content = RecordDict({"arrays": ArrayRecord(own), "config": config})
            return found

    with pytest.raises(ConfigurationError, match="all clients of a round the same model"):
        trained(Personal(), fedguard.Guarded(PullingGrid(), "median"))


def test_state_that_travels_beside_the_model_is_guarded_too_and_its_loss_is_told(caplog):
    class Controlled(FedAvg):
        """Like SCAFFOLD: control variates travel with the model."""

        def configure_train(self, server_round, arrays, config, grid):
            found = list(super().configure_train(server_round, arrays, config, grid))
            record = RecordDict(
                {"arrays": arrays, "control": ArrayRecord(list(VARIATES)), "config": config}
            )
            for message in found:
                message.content = record
            return found

        def aggregate_train(self, server_round, replies):
            controls = [m.content["control"]["0"].numpy() for m in replies]
            self.controls = np.stack(controls)
            for message in replies:
                del message.content["control"]
            return super().aggregate_train(server_round, replies)

    VARIATES = (np.zeros(3, np.float32),)

    class Grid(PullingGrid):
        def _answers(self, message):
            (answer,) = super()._answers(message)
            if message.metadata.message_type == "train":
                own = float(message.metadata.dst_node_id)
                value = 1e6 if own == 1 else own
                answer.content["control"] = ArrayRecord([np.full(3, value, np.float32)])
            return [answer]

    strategy = Controlled(fraction_evaluate=0.0)
    with caplog.at_level(WARNING, logger="flwr"):
        trained(strategy, fedguard.Guarded(Grid(), Median()), rounds=1)
    assert np.ptp(strategy.controls) == 0.0
    assert strategy.controls[0, 0] == pytest.approx(5.5)  # the median of 0, 2, 3 .. 9 and 1e6
    assert "learns nothing" in caplog.text


def test_nobody_accepted_leaves_the_model_and_says_why(caplog):
    with caplog.at_level(WARNING, logger="flwr"):
        grid = fedguard.Guarded(PullingGrid(dict.fromkeys(range(CLIENTS), failing)), "median")
        random.seed(0)
        result = FedAvg().start(grid=grid, initial_arrays=first_arrays(), num_rounds=2)
    assert len(result.arrays) == 0
    assert "no reply of round 2 counts (error reply: my disk is full)" in caplog.text


def test_clients_that_say_no_number_of_examples_count_alike(caplog):
    def silent(message, model):
        arrays = ArrayRecord({name: Array(value) for name, value in model.items()})
        return Message(RecordDict({"arrays": arrays}), reply_to=message)

    grid = fedguard.Guarded(PullingGrid(dict.fromkeys(range(CLIENTS), silent)), "median")
    with caplog.at_level(WARNING, logger="flwr"):
        assert distance(trained(OwnStrategy(fraction_evaluate=0.0), grid)) < 0.1
    assert "every client counts alike" in caplog.text


class Evaluating(PullingGrid):
    """Clients whose evaluation can be a lie, too."""

    def __init__(self, told) -> None:
        super().__init__()
        self.told = told

    def _answers(self, message):
        answers = super()._answers(message)
        if (
            message.metadata.message_type == "evaluate"
            and message.metadata.dst_node_id in self.told
        ):
            told = self.told[message.metadata.dst_node_id]
            bodies = [RecordDict({"metrics": MetricRecord(metrics)}) for metrics in told]
            return [Message(body, reply_to=message) for body in bodies]
        return answers


LIES = {
    "another metric": [{"num-examples": 14, "distance": 0.1, "mood": 1.0}],
    "a missing metric": [{"num-examples": 14}],
    "NaN": [{"num-examples": 14, "distance": float("nan")}],
    "a list": [{"num-examples": 14, "distance": [1.0, 2.0]}],
    "absurd examples": [{"num-examples": 10**12, "distance": 9.0}],
    "negative examples": [{"num-examples": -10, "distance": 9.0}],
}


@pytest.mark.parametrize("lie", LIES)
def test_one_clients_evaluation_neither_stops_the_server_nor_decides_for_all(lie):
    def evaluated(grid):
        result = FedAvg().start(grid=grid, initial_arrays=first_arrays(), num_rounds=1)
        return result.evaluate_metrics_clientapp[1]["distance"]

    honest = evaluated(fedguard.Guarded(PullingGrid(), Median()))
    lied = evaluated(fedguard.Guarded(Evaluating({4: LIES[lie]}), Median()))
    assert lied == pytest.approx(honest, abs=0.05)  # what fits of a lie is one client's word


def test_a_second_evaluation_does_not_count():
    told = [{"num-examples": 14, "distance": 5.0}] * 3
    grid = fedguard.Guarded(Evaluating({4: told}), Median())
    message = [
        Message(RecordDict({"arrays": first_arrays()}), node, MessageType.EVALUATE)
        for node in grid.get_node_ids()
    ]
    nodes = [reply.metadata.src_node_id for reply in grid.send_and_receive(message)]
    assert sorted(nodes) == list(range(CLIENTS))


def test_a_liar_cannot_name_the_number_of_examples_where_others_name_none():
    def silent(message, model):
        return Message(
            RecordDict({"arrays": reply(message, model).content["arrays"]}), reply_to=message
        )

    lies = {
        **dict.fromkeys(range(CLIENTS), silent),
        4: lambda message, model: reply(message, model),
    }
    grid = fedguard.Guarded(PullingGrid(lies), "median")
    trained(OwnStrategy(fraction_evaluate=0.0), grid, rounds=1)
    assert grid.rounds[0].accepted == frozenset(range(CLIENTS))


def test_metrics_in_two_records_stay_where_they_are():
    class Timed(PullingGrid):
        def _answers(self, message):
            (answer,) = super()._answers(message)
            seconds = 5.0 if message.metadata.dst_node_id else 1e6
            answer.content["timing"] = MetricRecord({"seconds": seconds})
            return [answer]

    class Keeping(OwnStrategy):
        def aggregate_train(self, server_round, replies):
            self.seen = [dict(m.content.metric_records) for m in replies]
            return super().aggregate_train(server_round, replies)

    strategy = Keeping(fraction_evaluate=0.0)
    grid = fedguard.Guarded(Timed(), Median())
    trained(strategy, grid, rounds=1)
    assert len(grid.rounds[0].accepted) == CLIENTS
    for told in strategy.seen:
        assert set(told) == {"metrics", "timing"}
        assert set(told["metrics"]) == {"num-examples", "train_loss"}
    # What one client says of its seconds is moved to where the others' are.
    assert max(told["timing"]["seconds"] for told in strategy.seen) == 55.0


def test_a_list_with_nan_is_set_aside_and_half_of_the_clients_cannot_force_a_metric():
    from fedguard.grids.reported import fitting

    reported = {node: {"num-examples": 5, "f1": [0.5, 0.6]} for node in range(5)}
    reported[4]["f1"] = [0.5, float("nan")]
    figures, odd = fitting(reported)
    assert set(odd) == {4}
    assert figures[0] == {"num-examples": 5, "f1": [0.5, 0.6]}
    halves = {0: {"loss": 1.0}, 1: {"loss": 1.0, "mood": 2.0}}
    assert fitting(halves) == ({0: {"loss": 1.0}, 1: {"loss": 1.0}}, {})


def test_clients_that_all_send_one_update_are_said_to_be_beyond_defence(caplog):
    """As under Flower's secure aggregation, whose sum stands in every reply."""
    grid = fedguard.Guarded(
        PullingGrid(dict.fromkeys(range(CLIENTS), lambda m, _: reply(m, dict(TARGET)))), "median"
    )
    with caplog.at_level(WARNING, logger="flwr"):
        trained(FedAvg(), grid, rounds=1)
    assert "nothing is defended" in caplog.text
    caplog.clear()
    with caplog.at_level(WARNING, logger="flwr"):
        trained(FedAvg(), fedguard.Guarded(PullingGrid(), "median"), rounds=1)
    assert "nothing is defended" not in caplog.text
