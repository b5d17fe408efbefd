"""What is remembered from round to round, and that nothing of it is lost on the way to disk."""

from __future__ import annotations

import json

import torch
from safetensors.torch import load, save
from unlearning_worlds import request

from fedguard.config.requests import UnlearnRequest
from fedguard.unlearning.memory import Memory
from fedguard.unlearning.method import LastModel
from fedguard.updates import ClientUpdates, Verdict

SIZE = 5


def full():
    return Memory(
        initial=torch.randn(SIZE),
        keep=torch.tensor([True, False, True, True, False]),
        last_models={3: LastModel(torch.randn(SIZE), 0.1 + 0.2), 7: LastModel(torch.ones(SIZE), 0)},
        carried_out=[request(3), request(4, label=1), request(4, 5, share=0.25)],
        refused=[{"request": "client 1", "reason": "no \u00e9, \u4f60"}],
        erased_round=9,
        calibrating=[3, 5],
        rejections={0: 2, 11: 1},
        by_verdict={11: 4},
        notes=["one", 'two "quoted"'],
    )


def test_a_memory_comes_back_from_disk_bit_for_bit():
    memory, costs = full(), {2: {"flops": 1e12, "bytes": 3.0, "link_seconds": 0.1 + 0.2}}
    tensors = load(save(memory.to_tensors(costs)))
    back, paid = Memory.from_tensors(tensors)
    assert paid == costs
    for name in ("carried_out", "refused", "erased_round", "calibrating", "rejections"):
        assert getattr(back, name) == getattr(memory, name), name
    assert (back.by_verdict, back.notes) == (memory.by_verdict, memory.notes)
    assert torch.equal(back.initial, memory.initial)
    assert back.keep.dtype == torch.bool
    assert torch.equal(back.keep, memory.keep)
    assert back.last_models.keys() == memory.last_models.keys()
    for client, last in memory.last_models.items():
        assert torch.equal(back.last_models[client].model, last.model)
        assert back.last_models[client].share == last.share


def test_an_empty_memory_comes_back_empty():
    back, costs = Memory.from_tensors(Memory().to_tensors({}))
    assert back == Memory()
    assert costs == {}


def test_the_words_are_json_not_code():
    tensors = full().to_tensors({})
    assert json.loads(bytes(tensors["memory"].tolist()))["calibrating"] == [3, 5]


def test_whole_clients_are_forgotten_and_parts_are_named():
    memory = full()
    assert memory.forgotten_clients == {3}
    assert memory.partial(3) is None
    assert memory.partial(4) == request(4, 5, share=0.25)  # the newest
    assert memory.partial(9) is None


def updates(server_round, nodes=(2, 5, 8)):
    deltas = torch.arange(len(nodes) * SIZE, dtype=torch.float32).view(-1, SIZE)
    return ClientUpdates.from_matrix(
        deltas, None, nodes, torch.full((SIZE,), 10.0), server_round=server_round
    )


def verdict(*weights):
    return Verdict(torch.zeros(SIZE), torch.tensor(weights))


def test_only_clients_with_a_request_ahead_are_remembered():
    memory = Memory()
    forged = UnlearnRequest(client=8, round=6, requester=2)
    memory.learn(updates(3), verdict(0.5, 0.25, 0.25), [request(5, 4), request(2, 3), forged])
    assert set(memory.last_models) == {5}  # 2's is past, 8's is not its own
    assert memory.last_models[5].model.tolist() == [15.0, 16.0, 17.0, 18.0, 19.0]
    assert memory.last_models[5].share == 0.25
    memory.learn(updates(4), verdict(1.0, 0.0, 0.0), [request(5, 4)])
    assert memory.last_models[5].share == 0.25  # the round of the request is no longer ahead


def test_rejections_are_counted_and_condemn_at_the_limit():
    memory, waits = Memory(), [UnlearnRequest(rejected=2)]
    memory.learn(updates(1), verdict(1.0, 0.0, 0.0), waits)
    assert memory.rejections == {5: 1, 8: 1}
    assert set(memory.last_models) == {5, 8}
    memory.condemn(2, 2, 5)
    assert memory.by_verdict == {}
    memory.learn(updates(2), verdict(1.0, 0.0, 1.0), waits)
    assert memory.rejections == {5: 2, 8: 1}
    memory.condemn(3, 2, 5)
    assert memory.by_verdict == {5: 3}
    memory.condemn(4, 2, 5)
    assert memory.by_verdict == {5: 3}  # once is enough
    (made,) = memory.condemned(3)
    assert (made.client, made.round, made.requester) == (5, 3, "server")
    assert made.genuine
    assert memory.condemned(4) == []


def test_never_more_than_so_many_are_condemned_and_none_twice():
    memory = Memory(rejections=dict.fromkeys(range(6), 9), carried_out=[request(0)])
    memory.condemn(4, 3, 2)
    assert memory.by_verdict == {1: 4, 2: 4}
    memory.condemn(5, 3, 2)
    assert memory.by_verdict == {1: 4, 2: 4}


def test_a_refusal_is_written_down():
    memory = Memory()
    reason = memory.refuse(UnlearnRequest(client=5, round=3, requester=2))
    assert reason == "client 2 may not ask to forget 5"
    assert memory.refused == [{"request": "client 5, round 3, requester 2", "reason": reason}]
