"""The mod in a Flower ClientApp: everything a client keeps survives its context's serialisation."""

from __future__ import annotations

import json

import numpy as np
import pytest
from encrypted_clients import LAYOUT, FixedClients, error, first_model, small
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

from fedguard.encryption.ckks import Ckks
from fedguard.encryption.errors import RefusedError
from fedguard.encryption.lattice import backend_tenseal
from fedguard.encryption.lattice.sampling import SystemRandom
from fedguard.encryption.local_clients import LocalClients
from fedguard.encryption.mod import IDENTITY_FILE, LEDGER_FILE, ROSTER_FILE, encryption_mod
from fedguard.encryption.protocol.agreement import Agreement
from fedguard.encryption.protocol.endpoint import ClientOptions
from fedguard.encryption.protocol.guards import Guards
from fedguard.encryption.protocol.identity import Identity
from fedguard.encryption.secagg import SecAggPlus
from fedguard.encryption.secagg_clients import SecAggClients, secagg_mods
from fedguard.encryption.xmkckks import XmkCkks
from fedguard.encryption.xmkckks_cost_model import XmkCkksCostModel
from fedguard.errors import ConfigurationError, RunError
from fedguard.grids.base import LocalGrid
from fedguard.grids.messages import arrays_of, model_reply_content
from fedguard.strategies.fedavg import FedAvg


def over_the_wire(content: RecordDict) -> RecordDict:
    return recorddict_from_proto(recorddict_to_proto(content))


class AppGrid(LocalGrid):
    """Clients that are Flower ClientApps; messages and contexts pass through protobuf."""

    def __init__(
        self, options: ClientOptions | None, clients: int, node_config=lambda _: {}, mods=None
    ) -> None:
        super().__init__()
        mods = mods or [encryption_mod(options)]
        self.truth = FixedClients(clients)
        self.contexts = {
            node: Context(1, node, node_config(node), RecordDict(), {}) for node in range(clients)
        }
        self.app = ClientApp()
        self.failures: list[str] = []

        @self.app.train(mods=mods)
        def train(message: Message, context: Context) -> Message:
            node = context.node_id
            server_round = message.content.config_records["config"]["server-round"]
            model = LAYOUT.vector_from_arrays(arrays_of(message))
            model = model + self.truth.delta(node, server_round)
            metrics = {"num-examples": self.truth.sizes[node], "train-loss": 1.0}
            return Message(model_reply_content(LAYOUT, model, metrics), reply_to=message)

    def get_node_ids(self):
        return range(len(self.contexts))

    def send_and_receive(self, messages, *, timeout=None):
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            old = self.contexts[node]
            context = Context(1, node, old.node_config, over_the_wire(old.state), {})
            self.contexts[node] = context
            arrived = Message(
                over_the_wire(message.content),
                dst_node_id=node,
                message_type=message.metadata.message_type,
            )
            try:
                reply = self.app(arrived, context)
            except Exception as failure:  # Flower turns it into an error reply
                self.failures.append(str(failure))
                continue
            replies.append(Message(over_the_wire(reply.content), reply_to=message))
        return replies


def one_round(strategy, grid: AppGrid, server_round: int):
    # Every round has a model of its own, as in a federation that learns.
    arrays = LAYOUT.to_arrays(LAYOUT.vector_from_arrays(first_model()) + 0.25 * server_round)
    before = LAYOUT.vector_from_arrays(arrays).double()
    messages = strategy.configure_train(server_round, arrays, ConfigRecord(), grid)
    found, _ = strategy.aggregate_train(server_round, grid.send_and_receive(messages))
    return LAYOUT.vector_from_arrays(found).double() - before


OPTIONS = ClientOptions(backend="numpy")


def strategy(clients: int = 4, **options) -> XmkCkks:
    return XmkCkks(backend="numpy", **options, **small(clients))


def test_rounds_through_client_apps_add_the_weighted_mean():
    server, grid = strategy(), AppGrid(OPTIONS, 4)
    for server_round in (1, 2, 3):
        assert error(one_round(server, grid, server_round), grid.truth.mean(server_round)) < 5e-6
    assert not grid.failures


def test_thresholds_survive_the_context():
    server, grid = strategy(5, threshold=3), AppGrid(OPTIONS, 5)
    for server_round in (1, 2):
        assert error(one_round(server, grid, server_round), grid.truth.mean(server_round)) < 5e-6


def test_the_shared_key_mode_runs_in_client_apps():
    pytest.importorskip("tenseal")
    grid = AppGrid(ClientOptions(scheme="ckks"), 4)
    server = Ckks(**small(4))
    for server_round in (1, 2):
        assert error(one_round(server, grid, server_round), grid.truth.mean(server_round)) < 1e-5


def test_flowers_own_secagg_mod_runs_in_client_apps():
    grid = AppGrid(None, 5, mods=secagg_mods())
    server = SecAggPlus(**small(5))
    for server_round in (1, 2):
        assert error(one_round(server, grid, server_round), grid.truth.mean(server_round)) < 2e-4
    assert not grid.failures


@pytest.mark.parametrize(
    ("make", "side", "mods"),
    [
        (lambda: XmkCkks(backend="numpy"), LocalClients, 1),
        (lambda: XmkCkksCostModel(backend="numpy"), FixedClients, 0),
        (SecAggPlus, SecAggClients, 3),
    ],
)
def test_each_strategy_gets_the_client_side_it_needs(make, side, mods):
    assert type(make().client_side(FixedClients(3))) is side
    assert len(make().client_mods({})) == mods


def test_a_strategy_that_does_not_encrypt_leaves_its_clients_as_they_are():
    grid = FixedClients(3)
    assert FedAvg().client_side(grid) is grid


def test_a_backend_that_cannot_be_used_is_named_before_the_run(monkeypatch):
    backend_tenseal.self_test.cache_clear()
    monkeypatch.setattr(backend_tenseal, "version", lambda _: "0.4.0")
    with pytest.raises(ConfigurationError, match="numpy here") as caught:
        XmkCkks(backend="tenseal").client_side(FixedClients(3))
    assert caught.value.field == "backend"
    with pytest.raises(ConfigurationError, match="xmkckks here"):
        Ckks()
    backend_tenseal.self_test.cache_clear()


def test_seeded_clients_draw_fresh_keys_every_round():
    grid = AppGrid(ClientOptions(backend="numpy", insecure_seed=3), 4)
    server = strategy(insecure_seed=3)
    for server_round in (1, 2):
        one_round(server, grid, server_round)
    memory = grid.contexts[0].state.config_records
    kept = [record for name, record in memory.items() if ".round." in name and "secret" in record]
    commitments = [tuple(record["commitments"]) for record in kept if record["commitments"]]
    assert len(set(commitments)) == len(commitments) == 2


def test_a_model_in_the_clear_is_never_sent():
    grid = AppGrid(OPTIONS, 4)
    plain = Message(
        RecordDict({"arrays": first_model(), "config": ConfigRecord({"server-round": 1})}),
        dst_node_id=1,
        message_type=MessageType.TRAIN,
    )
    with pytest.raises(RefusedError, match="in the clear"):
        grid.app(plain, grid.contexts[1])


@pytest.mark.parametrize("mods", [[encryption_mod(OPTIONS)], secagg_mods()])
def test_a_model_in_the_clear_is_not_sent_under_another_name(mods):
    """Flower hands ``train.default`` to the same function as ``train``."""
    grid = AppGrid(None, 4, mods=mods)
    plain = Message(
        RecordDict({"arrays": first_model(), "config": ConfigRecord({"server-round": 1})}),
        dst_node_id=1,
        message_type="train.default",
    )
    with pytest.raises(RefusedError, match="in the clear"):
        grid.app(plain, grid.contexts[1])


def test_an_update_that_is_not_finite_costs_nobody_else_the_round():
    server, grid = strategy(), AppGrid(OPTIONS, 4)
    true = grid.truth.delta
    grid.truth.delta = lambda node, number: true(node, number) * (np.nan if node == 2 else 1.0)
    added = one_round(server, grid, 1)
    grid.truth.delta = true
    assert error(added, grid.truth.mean(1, [0, 1, 3])) < 5e-6
    assert "NaN" in server._groups[0].faults[2]
    assert error(one_round(server, grid, 2), grid.truth.mean(2)) < 5e-6


def test_other_messages_pass():
    app = ClientApp()

    @app.query(mods=[encryption_mod(OPTIONS)])
    def query(message: Message, context: Context) -> Message:
        return Message(RecordDict({"x": ConfigRecord({"answer": 42})}), reply_to=message)

    question = Message(RecordDict(), dst_node_id=1, message_type=MessageType.QUERY)
    reply = app(question, Context(1, 1, {}, RecordDict(), {}))
    assert reply.content.config_records["x"]["answer"] == 42


@pytest.fixture
def enrolled(tmp_path):
    """Key files of four clients and the roster, with ids of their own choice."""
    keys = {party: Identity.generate(SystemRandom()) for party in range(4)}
    roster = tmp_path / "roster.json"
    roster.write_text(json.dumps({str(p): key.public.hex() for p, key in keys.items()}))
    for party, key in keys.items():
        (tmp_path / f"client-{party}.key").write_text(key.secret.hex() + "\n")

    def node_config(node: int) -> dict[str, str]:
        return {
            IDENTITY_FILE: str(tmp_path / f"client-{node}.key"),
            ROSTER_FILE: str(roster),
        }

    return node_config


def test_enrolled_clients_use_their_files(enrolled):
    server, grid = strategy(), AppGrid(OPTIONS, 4, enrolled)
    assert error(one_round(server, grid, 1), grid.truth.mean(1)) < 5e-6


def test_a_key_that_is_not_on_the_roster_is_refused(enrolled, tmp_path):
    (tmp_path / "client-2.key").write_text(Identity.generate(SystemRandom()).secret.hex())
    server, grid = strategy(), AppGrid(OPTIONS, 4, enrolled)
    assert error(one_round(server, grid, 1), grid.truth.mean(1, [0, 1, 3])) < 5e-6
    assert any("not on the roster" in failure for failure in grid.failures)


def test_nobody_encrypts_for_a_client_that_a_server_invents(enrolled):
    """Enrolled clients refuse a key of client 3 that is not on their roster."""
    server, grid = strategy(), AppGrid(OPTIONS, 4, enrolled)
    original = grid.send_and_receive
    terms = Agreement(1, 1, (0, 1, 2, 3), "default", "coefficients")

    def forging(messages, *, timeout=None):
        replies = list(original(messages, timeout=timeout))
        for reply in replies:
            record = reply.content.config_records.get("fedguard.encryption.commit")
            if record is not None and reply.metadata.src_node_id == 3:
                forger = Identity.generate(SystemRandom())
                record["public"] = forger.public
                record["signature"] = forger.sign(terms.commit_statement(3, record))
        return replies

    grid.send_and_receive = forging
    assert error(one_round(server, grid, 1), grid.truth.mean(1, [0, 1, 2])) < 5e-6
    assert "signature of client 3 is wrong" in server._groups[0].faults[3]


def test_minimum_participants_are_the_clients_own_choice():
    grid = AppGrid(ClientOptions(backend="numpy", guards=Guards(minimum_participants=6)), 4)
    with pytest.raises(RunError, match="wants at least 6"):
        one_round(strategy(), grid, 1)


def test_updates_are_kept_on_the_client_alone():
    server, grid = strategy(), AppGrid(OPTIONS, 4)
    one_round(server, grid, 1)
    kept = grid.contexts[0].state.array_records["fedguard.encryption.update"]["delta"].numpy()
    delta = grid.truth.delta(0, 1).numpy()
    assert np.allclose(kept[:-1], delta[:-1], atol=1e-6)


def test_a_client_that_lost_its_context_still_knows_what_it_let_go_of(tmp_path):
    def node_config(node: int) -> dict[str, str]:
        return {LEDGER_FILE: str(tmp_path / f"ledger-{node}.json")}

    server, grid = strategy(), AppGrid(OPTIONS, 4, node_config)
    one_round(server, grid, 1)
    for node in grid.contexts:
        grid.contexts[node] = Context(1, node, node_config(node), RecordDict(), {})
    with pytest.raises(RunError, match="already answered for round 1"):
        one_round(strategy(), grid, 1)
    assert error(one_round(strategy(), grid, 2), grid.truth.mean(2)) < 5e-6
    kept = json.loads((tmp_path / "ledger-0.json").read_text())
    assert kept["rounds"] == [1, 2]
