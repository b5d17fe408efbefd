"""The registrar's files and command line, and what comes over the wire from whoever it is."""

from __future__ import annotations

import importlib.util
import json
import socket
import ssl
import struct
from pathlib import Path

import pytest

from fedguard.enrolment import reasons
from fedguard.enrolment.__main__ import main
from fedguard.enrolment.files import (
    make_members,
    read_credential,
    read_registrar,
    read_revoked,
    write_secret,
)
from fedguard.enrolment.groups import Credential
from fedguard.enrolment.member import Member
from fedguard.enrolment.reasons import NotAdmittedError
from fedguard.enrolment.service import RegistrarProcess
from fedguard.enrolment.tickets import MAX_NUMBER, TICKET, Answer, Place, aggregator_id
from fedguard.enrolment.wire import TlsService, ask, client_context, server_context, split

ROOT = Path(__file__).resolve().parents[2]
NAME = aggregator_id("aggregator")
DIGEST = bytes(range(32))


@pytest.fixture
def folder(tmp_path) -> Path:
    make_members(tmp_path, 6, 3)
    return tmp_path


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Path:
    """A folder with TLS certificates of a federation."""
    spec = importlib.util.spec_from_file_location("certificates", ROOT / "docker/certificates.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = tmp_path_factory.mktemp("authority")
    module.make_tls(found, ["127.0.0.1"])
    return found


def refused(attempt) -> str:
    with pytest.raises(NotAdmittedError) as caught:
        attempt()
    return caught.value.reason


def request(folder: Path, number: int, place: Place, **told: int) -> bytes:
    """What the aggregator sends for a member: the open place and the ticket."""
    credential = read_credential(folder / "members" / f"{number}.json")
    numbers = iter(range(told.get("start", 0), 1000))
    who = Member(credential, lambda: place.server_round, lambda n: next(numbers).to_bytes(n, "big"))
    return struct.pack(">QH", *place) + who.ticket(NAME, place, DIGEST)


def test_what_members_and_registrar_read_is_what_was_written_for_both(folder):
    book = json.loads((folder / "registrar/members.json").read_text())
    registrar = read_registrar(folder / "registrar", int)
    seal = (folder / "aggregator/seal.key").read_text()
    assert registrar.aggregators == {NAME: bytes.fromhex(seal)}
    assert sorted(len(group["members"]) for group in book["groups"]) == [3, 3]
    for number in range(6):
        found = read_credential(folder / "members" / f"{number}.json")
        seed = next(g["seed"] for g in book["groups"] if number in g["members"])
        key = book["keys"][str(number)]
        assert found == Credential(bytes.fromhex(key), bytes.fromhex(seed), book["slots"])
        assert found == registrar.credential(number)
    assert len(set(book["keys"].values())) == 6


def test_a_federation_whose_book_was_never_written_is_enrolled_anew_and_whole(folder):
    before = (folder / "members/0.json").read_text()
    (folder / "registrar/members.json").unlink()
    make_members(folder, 6, 3)
    assert (folder / "members/0.json").read_text() != before
    registrar = read_registrar(folder / "registrar", int)
    for number in range(6):
        mine = read_credential(folder / "members" / f"{number}.json")
        assert registrar.credential(number) == mine
    assert not list(folder.rglob("*.new"))


@pytest.mark.parametrize("name", ["key", "seed", "slots"])
def test_a_credential_that_lacks_a_field_or_is_damaged_is_nobodys(folder, name):
    path = folder / "members" / "2.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in whole.items() if key != name}))
    with pytest.raises(KeyError, match=name):
        read_credential(path)
    path.write_text(json.dumps({**whole, name: "not a number"}))
    with pytest.raises(ValueError, match=r"hex|int"):
        read_credential(path)
    path.write_text(json.dumps(whole)[:-5])
    with pytest.raises(ValueError, match="line 1"):
        read_credential(path)


@pytest.mark.parametrize(("name", "why"), [("key", "FORGED"), ("seed", "UNKNOWN_LABEL")])
def test_a_credential_with_one_digit_changed_is_refused_by_its_reason(folder, name, why):
    path = folder / "members" / "2.json"
    whole = json.loads(path.read_text())
    digit = "0" if whole[name][0] != "0" else "1"
    path.write_text(json.dumps({**whole, name: digit + whole[name][1:]}))
    process = RegistrarProcess(folder / "registrar")
    body = request(folder, 2, Place(1))
    assert refused(lambda: process.answer("/access", body, "aggregator")) == getattr(reasons, why)
    assert process.answer("/access", request(folder, 3, Place(1), start=9), "aggregator")


def test_who_is_revoked_is_read_line_by_line_and_nobody_where_there_is_no_file(folder):
    assert read_revoked(folder / "registrar") == set()
    (folder / "registrar/revoked").write_text("4\n1\n4\n")
    assert read_revoked(folder / "registrar") == {1, 4}
    registrar = read_registrar(folder / "registrar", int)
    outside = [len(set(group.members) - {1, 4}) for group in registrar.groups]
    assert registrar.smallest_set == min(outside) < 3


def test_who_is_revoked_after_an_update_is_still_traced_and_all_is_logged_in_order(folder, capsys):
    process = RegistrarProcess(folder / "registrar")
    told = request(folder, 4, Place(7))
    handle = Answer.from_bytes(process.answer("/access", told, "aggregator")).handle.hex()
    assert main(["revoke", str(folder), "--member", "4", "--why", "first"]) == 0
    assert capsys.readouterr().out == "member 4 is revoked; 2 in the smallest group\n"
    again = request(folder, 4, Place(7), start=50)
    assert refused(lambda: process.answer("/access", again, "aggregator")) == reasons.REVOKED
    for number, member in ((7, 4), (8, None)):
        words = ["--handle", handle, "--round", str(number), "--why", f"round {number}"]
        assert main(["trace", str(folder), *words]) == (0 if member == 4 else 1)
    assert capsys.readouterr().out == "member 4\nnobody had this handle in this round\n"
    log = [json.loads(line) for line in (folder / "registrar/log.jsonl").read_text().splitlines()]
    assert log[0].pop("time") <= log[1].pop("time") <= log[2].pop("time")
    traced = {"what": "traced", "handle": handle}
    assert log == [
        {"what": "revoked", "member": 4, "why": "first"},
        {**traced, "member": 4, "round": 7, "why": "round 7"},
        {**traced, "member": None, "round": 8, "why": "round 8"},
    ]


@pytest.mark.parametrize(
    ("action", "words", "told"),
    [
        ("members", "--members 6 --k 1", "k: 1 is not valid; allowed: 2 to"),
        ("members", "--members 6 --k 7", "k: 7 is not valid; allowed: 2 to"),
        ("members", "--members 6 --k 2", "6 with k = 3, enrolled in"),
        ("members", "--members -6 --k 2", "k: 2 is not valid"),
        ("trace", "--round 1 --why x --handle zz", "32 hexadecimal digits"),
        ("trace", f"--round 1 --why x --handle {'a' * 31}", "32 hexadecimal digits"),
        ("trace", f"--round 1 --why x --handle {'a' * 34}", "32 hexadecimal digits"),
        ("revoke", "--why x --member 6", "an enrolled member"),
        ("revoke", "--why x --member -1", "an enrolled member"),
        ("registrar", "--listen 127.0.0.1:0", "No such file"),  # without a certificate
    ],
)
def test_bad_input_is_told_in_one_line_and_changes_nothing(folder, capsys, action, words, told):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main([action, str(folder), *words.split()]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("fedguard: ")
    assert printed.err.count("\n") == 1
    assert told in printed.err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("action", ["trace", "revoke", "registrar"])
def test_a_folder_where_nobody_enrolled_is_told_in_one_line(tmp_path, capsys, action):
    words = {
        "trace": ["--handle", "ab" * 16, "--round", "1", "--why", "x"],
        "revoke": ["--member", "1", "--why", "x"],
    }
    assert main([action, str(tmp_path / "none"), *words.get(action, [])]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "members.json" in error
    assert not (tmp_path / "none").exists()


def test_a_request_of_another_length_path_or_peer_is_refused_and_moves_no_epoch(folder):
    process = RegistrarProcess(folder / "registrar")
    body = request(folder, 0, Place(3))
    assert len(body) == 10 + TICKET
    for wrong in (b"", body[:-1], body + b"\0", body[10:], 2 * body):
        assert refused(lambda w=wrong: process.answer("/access", w, "aggregator")) == (
            reasons.MALFORMED
        )
    for path in ("/", "/access/", "/Access", "/trace", "access"):
        assert refused(lambda p=path: process.answer(p, body, "aggregator")) == reasons.MALFORMED
    for peer in ("", "Aggregator", "aggregator ", "superlink"):
        told = refused(lambda p=peer: process.answer("/access", body, p))
        assert told == reasons.OTHER_AGGREGATOR
    for number in (MAX_NUMBER, 2**64 - 1):
        far = struct.pack(">QH", number, 0) + body[10:]
        assert refused(lambda f=far: process.answer("/access", f, "aggregator")) == (
            reasons.MALFORMED
        )
    assert process.epoch == 0
    assert process.answer("/access", body, "aggregator")
    assert process.epoch == 3
    assert refused(lambda: process.answer("/access", body, "aggregator")) == reasons.REPLAYED


def raw_request(service: TlsService, context: ssl.SSLContext, text: bytes) -> bytes:
    """Send bytes as they are, and return the first line of what comes back."""
    with (
        socket.create_connection(("127.0.0.1", service.port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        secure.sendall(text)
        return secure.makefile("rb").readline().strip()


def test_lengths_that_lie_are_refused_and_never_reach_who_answers(authority):
    seen = []

    def answer(path: str, body: bytes, peer: str) -> bytes:
        seen.append((path, body, peer))
        return body[::-1]

    files = (authority / "superlink" / name for name in ("server.pem", "server.key"))
    service = TlsService(("127.0.0.1", 0), server_context(*files), answer, limit=8)
    context = client_context(authority / "public" / "ca.crt")
    with service.running():
        address = f"127.0.0.1:{service.port}"
        for size in (b"9", b"-1", b"+1", b"1e0", b"0x1", b"1.0", b"", b"1,1", b"9" * 40):
            text = b"POST /x HTTP/1.0\r\nContent-Length: " + size + b"\r\n\r\n12345678"
            assert b" 413 " in raw_request(service, context, text) + b" ", size
        bare = b"POST /x HTTP/1.0\r\n\r\n12345678"
        assert b" 413 " in raw_request(service, context, bare) + b" "
        # A length that Python itself refuses to read as a number breaks that request alone.
        long = b"POST /x HTTP/1.0\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n"
        assert b" 200" not in raw_request(service, context, long)
        # A peer that is still sending may be cut off before it reads why.
        told = refused(lambda: ask(address, context, "/x", bytes(9)))
        assert told in (reasons.MALFORMED, reasons.NO_ANSWER)
        assert seen == []
        assert ask(address, context, "/x", b"12345678") == b"87654321"
        assert ask(address, context, "/y", b"") == b""
    assert seen == [("/x", b"12345678", ""), ("/y", b"", "")]
    assert refused(lambda: ask(address, context, "/x", b"")) == reasons.NO_ANSWER


def test_only_known_reasons_are_believed_and_one_that_breaks_harms_itself_alone(authority):
    def answer(path: str, body: bytes, peer: str) -> bytes:
        if path == "/break":
            raise RuntimeError("broken")
        raise NotAdmittedError(body.decode())

    files = (authority / "superlink" / name for name in ("server.pem", "server.key"))
    service = TlsService(("127.0.0.1", 0), server_context(*files), answer, limit=100)
    context = client_context(authority / "public" / "ca.crt")
    with service.running():
        address = f"127.0.0.1:{service.port}"
        assert refused(lambda: ask(address, context, "/break", b"")) == reasons.NO_ANSWER
        for why in reasons.REASONS:
            assert refused(lambda w=why: ask(address, context, "/x", w.encode())) == why
        for words in (b"", b"you are admitted", b"late"):
            assert refused(lambda w=words: ask(address, context, "/x", w)) == reasons.NO_ANSWER


def test_an_address_ends_with_its_port():
    assert split("registrar:8001") == ("registrar", 8001)
    assert split("::1:80") == ("::1", 80)


def test_a_draft_that_a_crash_left_open_to_others_does_not_open_the_secret(tmp_path):
    draft = tmp_path / "seal.key.new"
    draft.write_text("half")
    draft.chmod(0o644)
    write_secret(tmp_path / "seal.key", "whole")
    assert (tmp_path / "seal.key").read_text() == "whole"
    assert (tmp_path / "seal.key").stat().st_mode & 0o777 == 0o600
    assert not draft.exists()
