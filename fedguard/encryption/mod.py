"""The clients' side of the protocol as a mod of a Flower ClientApp."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import nullcontext
from dataclasses import asdict
from logging import WARNING
from pathlib import Path

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MessageType,
    RecordDict,
)
from flwr.clientapp.typing import ClientAppCallable, Mod
from flwr.common.logger import log

from fedguard.encryption.errors import RefusedError
from fedguard.encryption.lattice.profiles import PROFILES
from fedguard.encryption.protocol.agreement import get
from fedguard.encryption.protocol.endpoint import ClientEndpoint, ClientOptions, Update
from fedguard.encryption.protocol.guards import Guards
from fedguard.encryption.protocol.identity import Identity, Roster
from fedguard.encryption.protocol.ledger import Training, model_digest
from fedguard.encryption.protocol.ledger_file import LedgerFile
from fedguard.encryption.protocol.records import (
    PREFIX,
    REFUSED,
    RecordMemory,
    plain_content,
    round_of,
    stages_of,
    to_records,
)
from fedguard.encryption.protocol.transcript import digest
from fedguard.encryption.protocol.weights import downscaled
from fedguard.errors import ConfigurationError, check_choice

IDENTITY_FILE = "fedguard-identity"
ROSTER_FILE = "fedguard-roster"
LEDGER_FILE = "fedguard-ledger"
"""Keys of a SuperNode's ``--node-config`` that name the client's key, everyone's public keys, and
where the client writes down which updates it let go of, so that a restart does not forget it."""

PARTICIPANTS = "fedguard-minimum-participants"
THRESHOLD = "fedguard-smallest-threshold"
PROFILE = "fedguard-smallest-profile"
"""Keys that say what the client insists on; see `Guards`."""

_UPDATE, _ROSTER, _SELF = PREFIX + "update", PREFIX + "roster", PREFIX + "self"
_MEMORY = PREFIX + "round."


class EncryptionMod:
    """A mod that trains with the app and replies with ciphertexts and shares alone.

    ``ClientApp(mods=[encryption_mod(ClientOptions())])`` encrypts for `XmkCkks`, with
    ``ClientOptions(scheme="ckks")`` for `Ckks`. Training messages without the protocol's records
    are refused; messages of other types pass as they are. The app's training function must reply
    with one array record of the model's names and one metric record that holds ``num-examples``.

    A client's signing key and the roster of all public keys come from files that its
    ``--node-config`` names; without them the client makes a key and takes the others' on first
    use, which a server that lies from the start can exploit, and says so.

    Parameters
    ----------
    options : ClientOptions
        How the client encrypts, and what it insists on.
    """

    def __init__(self, options: ClientOptions) -> None:
        self.options = options

    @property
    def origin(self) -> tuple[str, str]:
        """The function that makes this mod again, and its argument."""
        return "fedguard.encryption.mod:mod_again", json.dumps(asdict(self.options))

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Answer a message; see `flwr.clientapp.typing.Mod`."""
        if not is_training(message):
            return call_next(message, context)
        stages = stages_of(message.content)
        if not stages or message.metadata.message_type != MessageType.TRAIN:
            raise RefusedError("a client that encrypts does not send its model in the clear")
        if message.content.array_records:
            fault = _train(message, context, call_next)
            if fault is not None:
                return Message(to_records({s: {REFUSED: fault} for s in stages}), reply_to=message)
        path = context.node_config.get(LEDGER_FILE)
        ledger = None if path is None else LedgerFile(Path(str(path)))
        with nullcontext() if ledger is None else ledger.held():
            endpoint = _endpoint(message, context, self.options, ledger)
            replies = endpoint.answer(stages, _held(context))
        return Message(to_records(replies), reply_to=message)


def encryption_mod(options: ClientOptions) -> Mod:
    """Return the mod of a ClientApp that encrypts; see `EncryptionMod`."""
    return EncryptionMod(options)


def mod_again(written: str) -> Mod:
    """Return the mod whose `origin` this is."""
    given = json.loads(written)
    return EncryptionMod(ClientOptions(**{**given, "guards": Guards(**given["guards"])}))


def is_training(message: Message) -> bool:
    """Return whether Flower hands a message to a training function: ``train``, ``train.name``."""
    return message.metadata.message_type.partition(".")[0] == MessageType.TRAIN


def guards_of(node_config: Mapping[str, object]) -> Guards:
    """Return what a node's own configuration says that its client insists on."""
    guards = Guards()
    wanted: dict[str, int] = {}
    for key, own in (
        (PARTICIPANTS, guards.minimum_participants),
        (THRESHOLD, guards.smallest_threshold),
    ):
        value = node_config.get(key, own)
        if not isinstance(value, int) or value < 2:
            raise ConfigurationError(key, value, "a whole number >= 2")
        wanted[key] = value
    smallest = str(node_config.get(PROFILE, guards.smallest_profile))
    check_choice(PROFILE, smallest, tuple(PROFILES))
    return Guards(
        minimum_participants=wanted[PARTICIPANTS],
        smallest_threshold=wanted[THRESHOLD],
        smallest_profile=smallest,
    )


def _train(message: Message, context: Context, call_next: ClientAppCallable) -> str | None:
    """Let the app train and keep its update in the context, which stays on the client.

    Returns what is wrong with the app's reply, if anything; nothing is kept then.
    """
    # With the first message that trains: the others' processes do without torch.
    from fedguard.layout import ParameterLayout
    from fedguard.updates import ClientUpdates

    arrays = next(iter(message.content.array_records.values()))
    whole = message.content
    # A client process cannot build a new instruction, so this one is lent without the protocol.
    message.content = plain_content(message)
    try:
        reply = call_next(message, context)
    finally:
        message.content = whole
    layout = ParameterLayout.from_arrays(arrays)
    before = layout.vector_from_arrays(arrays)
    found = ClientUpdates.from_replies([reply], before, layout)
    for name in (_UPDATE, _UPDATE + ".training"):
        context.state.pop(name, None)
    if not len(found.node_ids):
        return next(iter(found.malformed.values()), "the client's app has trained nothing")
    delta = downscaled(found.deltas[0], layout).numpy()
    context.state[_UPDATE] = ArrayRecord({"delta": Array(delta)})
    model = model_digest(before)
    context.state[_UPDATE + ".training"] = ConfigRecord(
        {
            "num-examples": float(found.num_examples[0]),
            "round": round_of(stages_of(message.content)),
            "model": model,
        }
    )
    return None


def _held(context: Context) -> Update | None:
    if _UPDATE not in context.state.array_records:
        return None
    delta = context.state.array_records[_UPDATE]["delta"].numpy()
    record = context.state.config_records[_UPDATE + ".training"]
    training = Training(get(record, "round", int), get(record, "model", bytes))
    examples = get(record, "num-examples", float)
    return Update(np.asarray(delta, dtype=np.float32), examples, training)


def _endpoint(
    message: Message, context: Context, options: ClientOptions, ledger: LedgerFile | None
) -> ClientEndpoint:
    records = context.state.config_records
    if _SELF not in records:
        records[_SELF] = _make_self(message, context, options)
    mine = records[_SELF]
    party, secret = mine["party"], mine["secret"]
    assert isinstance(party, int)
    assert isinstance(secret, bytes)
    stages = stages_of(message.content)
    label = " ".join(f"{name} {request.get('round')}" for name, request in stages.items())
    return ClientEndpoint(
        options,
        party,
        Identity(secret),
        _roster(context),
        RecordMemory(context.state, _MEMORY, ledger),
        label,
        digest("run", context.run_id.to_bytes(8, "little")),
    )


def _make_self(message: Message, context: Context, options: ClientOptions) -> ConfigRecord:
    """Return the client's id and signing key: from files, or the server's word and a fresh key."""
    path = context.node_config.get(IDENTITY_FILE)
    source = options.source(f"identity {context.node_id}")
    secret = (
        source.bytes(32) if path is None else bytes.fromhex(Path(str(path)).read_text().strip())
    )
    enrolled = read_roster(context)
    public = Identity(secret).public
    parties = [party for party, key in (enrolled or {}).items() if key == public]
    if parties:
        return ConfigRecord({"party": parties[0], "secret": secret})
    if enrolled is not None:
        raise ValueError(f"the key in {path} is not on the roster")
    log(WARNING, "no roster of client keys: taking each on first use, and the server's word for it")
    named = [stage.get("you") for stage in stages_of(message.content).values()]
    party = next((value for value in named if isinstance(value, int)), context.node_id)
    return ConfigRecord({"party": party, "secret": secret})


def read_roster(context: Context) -> dict[int, bytes] | None:
    """Return the roster in the file that the node's configuration names, or None."""
    path = context.node_config.get(ROSTER_FILE)
    if path is None:
        return None
    found = json.loads(Path(str(path)).read_text())
    return {int(party): bytes.fromhex(key) for party, key in found.items()}


def _roster(context: Context) -> Roster:
    enrolled = read_roster(context)
    if enrolled is not None:
        return Roster(enrolled)
    return Roster(_FirstUse(context.state), first_use=True)


class _FirstUse(MutableMapping[int, bytes]):
    """Keys that were seen first, kept in the client's context."""

    def __init__(self, state: RecordDict) -> None:
        if _ROSTER not in state.config_records:
            state[_ROSTER] = ConfigRecord()
        self._record = state.config_records[_ROSTER]

    def __getitem__(self, party: int) -> bytes:
        value = self._record[str(party)]
        assert isinstance(value, bytes)
        return value

    def __setitem__(self, party: int, key: bytes) -> None:
        self._record[str(party)] = key

    def __delitem__(self, party: int) -> None:
        del self._record[str(party)]

    def __iter__(self) -> Iterator[int]:
        return iter([int(name) for name in self._record])

    def __len__(self) -> int:
        return len(self._record)
