"""``python -m fedguard.enrolment``: the registrar's desk; none of it is the aggregator's.

``members FOLDER --members N --k K`` enrols N members; ``registrar FOLDER`` answers the aggregator;
``trace FOLDER`` says who had a handle; ``revoke FOLDER`` shuts a member out. The last two are
logged, and need a reason. ``relay`` stands between clients and the aggregator's door.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from pathlib import Path

from fedguard.enrolment.files import AGGREGATOR, make_members, note, read_registrar
from fedguard.enrolment.relay import Relay
from fedguard.enrolment.service import RegistrarProcess
from fedguard.enrolment.tickets import HANDLE, aggregator_id
from fedguard.enrolment.wire import split
from fedguard.errors import ConfigurationError


def main(arguments: list[str] | None = None) -> int:
    """Do what the arguments say; return 0, 1 where nothing was found, or 2."""
    options = _parser().parse_args(arguments)
    try:
        return int(_ACTIONS[options.action](options))
    except KeyError as error:
        print(f"fedguard: {options.action}: a file of the registrar lacks {error}", file=sys.stderr)
    except (ConfigurationError, OSError) as error:
        print(f"fedguard: {error}", file=sys.stderr)
    except (ValueError, OverflowError) as error:
        print(f"fedguard: {options.action}: {error}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fedguard.enrolment", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    members, registrar, trace, revoke, relay = (actions.add_parser(name) for name in _ACTIONS)
    for each in (members, registrar, trace, revoke):
        each.add_argument("folder", type=Path, help="the federation's folder")
    members.add_argument("--members", type=int, required=True)
    members.add_argument("--k", type=int, required=True)
    registrar.add_argument("--listen", default="127.0.0.1:8001", help="host:port")
    trace.add_argument("--handle", required=True, help="32 hexadecimal digits of clients.jsonl")
    trace.add_argument("--round", type=int, required=True)
    revoke.add_argument("--member", type=int, required=True)
    relay.add_argument("--listen", required=True, help="host:port")
    relay.add_argument("--to", required=True, help="host:port of the door")
    for each in (trace, revoke):
        each.add_argument("--why", required=True, help="for the log")
    return parser


def _members(options: argparse.Namespace) -> int:
    make_members(options.folder, options.members, options.k)
    print(f"{options.members} members are enrolled in {options.folder}, k = {options.k}")
    return 0


def _registrar(options: argparse.Namespace) -> int:
    process = RegistrarProcess(options.folder / "registrar")
    authority = options.folder / "public" / "ca.crt"
    service = process.service(split(options.listen), authority)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"the registrar listens on port {service.port}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        service.serve_forever()
    return 0


def _trace(options: argparse.Namespace) -> int:
    folder = options.folder / "registrar"
    registrar = read_registrar(folder, lambda: 0)
    try:
        handle = bytes.fromhex(options.handle)
    except ValueError:
        handle = b""
    if len(handle) != HANDLE:
        raise ConfigurationError("handle", options.handle, f"{2 * HANDLE} hexadecimal digits")
    found = registrar.trace(aggregator_id(AGGREGATOR), options.round, handle, options.why)
    note(folder, registrar)
    print("nobody had this handle in this round" if found is None else f"member {found}")
    return 1 if found is None else 0


def _revoke(options: argparse.Namespace) -> int:
    folder = options.folder / "registrar"
    registrar = read_registrar(folder, lambda: 0)
    if options.member not in {m for group in registrar.groups for m in group.members}:
        raise ConfigurationError("member", options.member, "an enrolled member")
    registrar.revoke(options.member, options.why)
    with (folder / "revoked").open("a", encoding="utf-8") as file:
        file.write(f"{options.member}\n")
    note(folder, registrar)
    print(f"member {options.member} is revoked; {registrar.smallest_set} in the smallest group")
    return 0


def _relay(options: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with contextlib.suppress(KeyboardInterrupt):
        Relay(split(options.listen), split(options.to)).serve_forever()
    return 0


_ACTIONS = {
    "members": _members,
    "registrar": _registrar,
    "trace": _trace,
    "revoke": _revoke,
    "relay": _relay,
}

if __name__ == "__main__":
    sys.exit(main())
