"""Multi-key CKKS as a strategy: trips, dropouts, groups, refusals."""

from __future__ import annotations

import pytest
import torch
from encrypted_clients import LAYOUT, Run, error, first_model, small

from fedguard.encryption.xmkckks import XmkCkks
from fedguard.errors import ConfigurationError, RunError
from fedguard.testing import check_strategy


def make(clients: int = 5, **options) -> XmkCkks:
    return XmkCkks(backend=options.pop("backend", "numpy"), **options, **small(clients))


@pytest.mark.parametrize("backend", ["tenseal", "numpy"])
def test_rounds_add_the_weighted_mean(backend):
    if backend == "tenseal":
        pytest.importorskip("tenseal")
    run = Run(make(backend=backend))
    for server_round in (1, 2, 3):
        added = run.round(server_round)
        assert error(added, run.inner.mean(server_round)) < 5e-6
        assert float(added[-1]) == 300.0, "integer buffers survive the clip"


def test_two_trips_per_round_once_the_cohort_stands():
    run = Run(make())
    trips = []
    for server_round in (1, 2, 3):
        before = run.grid.trip
        run.round(server_round)
        trips.append(run.grid.trip - before)
        assert run.metrics["trips"] == trips[-1]
    assert trips == [4, 2, 2]
    assert run.grid.seen[-2:] == [{"encrypt", "commit"}, {"share", "reveal"}]
    assert run.inner.trained == [0, 1, 2, 3, 4] * 3, "nobody trains twice"


def test_the_server_never_sees_a_model_or_a_number_of_examples():
    run = Run(make())
    seen = []
    original = run.grid.inner.send_and_receive

    def spy(messages, *, timeout=None):
        replies = list(original(messages, timeout=timeout))
        seen.extend(replies)
        return replies

    run.grid.inner.send_and_receive = spy
    run.round(1)
    assert seen
    for reply in seen:
        assert not reply.content.array_records
        assert not reply.content.metric_records
        for record in reply.content.config_records.values():
            assert "num-examples" not in record
            assert record.get("exponent", 7) in (6, 7)


@pytest.mark.parametrize("stage", ["commit", "reveal"])
def test_clients_lost_before_the_joint_key_are_left_out(stage):
    run = Run(make(), lost=lambda trip, party, stages: party == 2 and stage in stages and trip < 4)
    added = run.round(1)
    assert error(added, run.inner.mean(1, [0, 1, 3, 4])) < 5e-6
    updates, verdict = run.seen[-1]
    assert updates.node_ids == (0, 1, 3, 4)
    assert updates.malformed == {2: "no reply"}
    assert float(verdict.weights.sum()) == pytest.approx(1)


def test_a_client_lost_before_upload_makes_the_round_begin_anew_without_training_again():
    run = Run(make(), lost=lambda trip, party, stages: trip == 4 and party == 2)
    run.round(1)
    added = run.round(2)
    assert error(added, run.inner.mean(2, [0, 1, 3, 4])) < 5e-6
    assert run.inner.trained == [0, 1, 2, 3, 4] * 2
    added = run.round(3)
    assert error(added, run.inner.mean(3)) < 5e-6, "the lost client is back"


def test_a_client_lost_before_its_share_is_one_clear_error_and_the_run_goes_on_when_resumed():
    run = Run(make(), lost=lambda trip, party, stages: trip == 5 and party == 2)
    run.round(1)
    with pytest.raises(RunError) as caught:
        run.round(2)
    message = str(caught.value)
    assert "\n" not in message
    assert "nothing was decrypted" in message
    assert "resume" in message
    again = Run(make())
    assert error(again.round(2), again.inner.mean(2)) < 5e-6


def test_with_a_threshold_clients_may_vanish_after_upload():
    run = Run(
        make(7, threshold=4),
        clients=7,
        lost=lambda trip, party, stages: party in (0, 1, 2) and bool(stages & {"probe", "share"}),
    )
    added = run.round(1)
    assert error(added, run.inner.mean(1)) < 5e-6
    assert run.seen[-1][0].node_ids == tuple(range(7))


def test_a_quorum_that_falls_apart_is_replaced():
    run = Run(
        make(7, threshold=4),
        clients=7,
        lost=lambda trip, party, stages: trip in (4, 5) and party == 0,
    )
    assert error(run.round(1), run.inner.mean(1)) < 5e-6
    assert [stages & {"probe", "share"} for stages in run.grid.seen[3:]] == [
        {"probe"}, {"share"}, {"probe"}, {"share"},
    ]  # fmt: skip


def test_below_the_threshold_nothing_is_asked():
    run = Run(
        make(7, threshold=5),
        clients=7,
        lost=lambda trip, party, stages: party in (0, 1, 2) and "probe" in stages,
    )
    with pytest.raises(RunError, match="4 of 7 clients are left, 5 are needed"):
        run.round(1)
    assert not any("share" in stages for stages in run.grid.seen)


def test_group_means_go_to_a_robust_rule():
    run = Run(make(9, groups=3, rule="median"), clients=9)
    run.inner.override[4] = torch.full((LAYOUT.size,), 5.0)
    added = run.round(1)
    assert float(added[: LAYOUT.num_trainable].abs().max()) < 1, "the median ignores one bad group"
    updates, verdict = run.seen[-1]
    assert updates.node_ids == tuple(range(9))
    groups = {tuple(row.tolist()) for row in updates.deltas}
    assert len(groups) == 3
    assert float(verdict.weights.sum()) == pytest.approx(1)


def test_a_rejected_group_takes_its_members_along_with_a_reason():
    run = Run(make(15, groups=3, rule="krum", assumed_malicious=0.05), clients=15)
    run.inner.override[4] = torch.full((LAYOUT.size,), 5.0)
    run.round(1)
    _, verdict = run.seen[-1]
    outcast = next(group for group in run.strategy._divided if 4 in group)
    assert set(outcast) <= set(verdict.reasons)
    assert all("its group's mean was rejected" in why for why in verdict.reasons.values())
    for group in run.strategy._divided:
        weights = {float(verdict.weights[party]) for party in group}
        assert len(weights) == 1, "a group is accepted or rejected as a whole"


def test_a_lost_group_does_not_stop_the_others():
    strategy = make(9, groups=3)
    run = Run(strategy, clients=9)
    run.round(1)
    victim_group = strategy._divided[0]
    run.grid.lost = lambda trip, party, stages: "share" in stages and party == victim_group[0]
    added = run.round(2)
    rest = [party for party in range(9) if party not in victim_group]
    assert error(added, run.inner.mean(2, rest)) < 1e-5
    assert set(run.seen[-1][0].malformed) == set(victim_group)
    assert "nothing was decrypted" in run.seen[-1][0].malformed[victim_group[1]]


@pytest.mark.parametrize("threshold", [0, 3])
def test_rounds_with_a_sample_of_the_clients_add_the_mean_of_the_sample(threshold):
    """Keys that were made ahead for the last sample are of no use to the next one."""
    sampling = {"fraction_train": 0.5, "min_train_nodes": 5, "min_available_nodes": 8}
    run = Run(XmkCkks(backend="numpy", threshold=threshold, **sampling), clients=8)
    samples = set()
    for server_round in (1, 2, 3, 4):
        added = run.round(server_round)
        samples.add(run.strategy._asked)
        assert error(added, run.inner.mean(server_round, run.strategy._asked)) < 5e-6
        assert not run.seen[-1][0].malformed
    assert len(samples) > 1


def test_all_groups_share_their_trips():
    run = Run(make(9, groups=3), clients=9)
    for server_round in (1, 2):
        run.round(server_round)
    assert run.grid.trip + 1 == 6


def test_updates_that_are_not_finite_are_refused_by_the_client_itself():
    run = Run(make())
    run.inner.override[1] = torch.full((LAYOUT.size,), float("nan"))
    added = run.round(1)
    assert error(added, run.inner.mean(1, [0, 2, 3, 4])) < 5e-6
    assert "NaN" in run.seen[-1][0].malformed[1]


def test_what_a_client_refuses_reaches_the_error():
    run = Run(
        make(3, minimum_participants=3),
        clients=3,
        lost=lambda trip, party, stages: party == 0 and "commit" in stages,
    )
    with pytest.raises(RunError, match="2 participants, this client wants at least 3"):
        run.round(1)


def test_seeded_runs_repeat_bit_for_bit():
    results = []
    for _ in range(2):
        run = Run(make(insecure_seed=5))
        results.append([run.round(1), run.round(2)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    other = Run(make(insecure_seed=6))
    assert not torch.equal(other.round(1), results[0][0])


def test_a_plain_training_message_is_refused():
    from flwr.app import Message, MessageType, RecordDict

    run = Run(make())
    plain = Message(
        RecordDict({"arrays": first_model()}), dst_node_id=1, message_type=MessageType.TRAIN
    )
    with pytest.raises(Exception, match="in the clear"):
        run.grid.send_and_receive([plain])


def test_metrics_count_trips_and_bytes():
    run = Run(make())
    run.round(1)
    run.round(2)
    count = 1
    ciphertext = 26 + count * 4096 * (32 + 81) // 8
    share = 26 + count * 4096 * 32 // 8
    assert run.metrics["client-upload-bytes"] > ciphertext + share
    assert run.metrics["client-upload-bytes"] < ciphertext + share + 60_000
    assert run.metrics["clipped-share"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("rule", ["krum", "median", "geminiguard", "trimmed-mean"])
def test_a_rule_that_would_look_inside_ciphertexts_is_refused_in_one_line(rule):
    with pytest.raises(ConfigurationError) as caught:
        make(rule=rule)
    text = str(caught.value)
    assert "\n" not in text
    assert "set groups=m" in text
    assert rule in text


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"groups": 2}, "groups"),
        ({"groups": -1}, "groups"),
        ({"groups": 3, "rule": "medain"}, "strategy"),
        ({"profile": "defautl"}, "profile"),
        ({"packing": "bags"}, "packing"),
        ({"backend": "seal"}, "backend"),
        ({"threshold": 2}, "threshold"),
        ({"minimum_participants": 1}, "minimum_participants"),
    ],
)
def test_bad_options_name_the_field(options, field):
    with pytest.raises(ConfigurationError) as caught:
        XmkCkks(**options, **small(9))
    assert caught.value.field == field


def test_a_threshold_must_be_more_than_half():
    run = Run(make(9, threshold=4), clients=9)
    with pytest.raises(ConfigurationError, match="5 to 9"):
        run.round(1)


def test_pre_aggregation_needs_groups():
    strategy = make()
    strategy.pre = object()
    run = Run(strategy)
    with pytest.raises(ConfigurationError, match="groups=m"):
        run.round(1)


def test_the_first_round_says_what_is_protected(caplog):
    import logging

    logging.getLogger("flwr").propagate = True
    with caplog.at_level(logging.INFO, logger="flwr"):
        Run(make()).round(1)
    text = " ".join(record.getMessage() for record in caplog.records)
    assert "RLWE security 128 bits" in text
    assert "statistical bits" in text


@pytest.mark.parametrize("options", [{}, {"groups": 3, "rule": "median"}])
def test_as_a_rule_on_plaintext_it_conforms(options):
    check_strategy(lambda: XmkCkks(backend="numpy", **options))
