"""Makes what a federation needs to trust itself: TLS certificates and SuperNode key pairs.

``python docker/certificates.py FOLDER --supernodes 5 --host superlink`` writes

    FOLDER/authority/   key of the certificate authority: keep it off the network
    FOLDER/superlink/   the SuperLink's certificate and private key
    FOLDER/public/      the authority's certificate, the SuperNodes' public keys, and the roster of
                        the keys with which clients sign what they send each other
    FOLDER/supernodes/  one folder each, with its private keys, for one machine only
    FOLDER/registrar/   with --registrar HOST: the registrar's certificate and private key
    FOLDER/aggregator/  and the certificate that the aggregator shows it

What is there already stays, so a larger ``--supernodes`` only adds key pairs. ``--renew`` makes the
SuperLink's certificate and key anew, signed by the same authority: only the SuperLink is restarted.
"""

from __future__ import annotations

import argparse
import datetime
import ipaddress
import json
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = datetime.timedelta(days=825)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as unencrypted PKCS#8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def write(path: Path, content: bytes, *, secret: bool = False) -> None:
    """Write a file whole or not at all; a secret one only its owner can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    mode = 0o600 if secret else 0o644
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(content)
    draft.replace(path)


def certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    extensions: list[tuple[x509.ExtensionType, bool]],
) -> x509.Certificate:
    """Return a certificate for `name`, signed by the issuer's key."""
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + LIFETIME)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(issuer_key, hashes.SHA256())


def make_tls(folder: Path, hosts: list[str]) -> None:
    """Write an authority and a SuperLink certificate that is valid for `hosts`."""
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedguard federation")])
    authority = certificate(
        "fedguard federation",
        authority_key,
        authority_name,
        authority_key,
        [
            (x509.BasicConstraints(ca=True, path_length=0), True),
            (x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), False),
        ],
    )
    write(folder / "authority" / "ca.key", private_pem(authority_key), secret=True)
    make_server(folder, hosts, authority_name, authority_key)
    # Last: its presence says that everything above is there.
    write(folder / "public" / "ca.crt", authority.public_bytes(serialization.Encoding.PEM))


def make_server(
    folder: Path, hosts: list[str], issuer: x509.Name, authority_key: ec.EllipticCurvePrivateKey
) -> None:
    """Write the SuperLink's key and its certificate, valid for `hosts`."""
    server_key = ec.generate_private_key(ec.SECP256R1())
    server = certificate(
        hosts[0],
        server_key,
        issuer,
        authority_key,
        [
            (x509.SubjectAlternativeName([alternative_name(host) for host in hosts]), False),
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
            (
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
                False,
            ),
        ],
    )
    write(folder / "superlink" / "server.key", private_pem(server_key), secret=True)
    write(folder / "superlink" / "server.pem", server.public_bytes(serialization.Encoding.PEM))


def authority_of(folder: Path) -> tuple[x509.Name, ec.EllipticCurvePrivateKey]:
    """Return the name and the key of the authority that a folder holds."""
    pem = (folder / "authority" / "ca.key").read_bytes()
    key = serialization.load_pem_private_key(pem, password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return x509.load_pem_x509_certificate((folder / "public" / "ca.crt").read_bytes()).subject, key


def make_registrar_tls(folder: Path, host: str) -> None:
    """Write a certificate for the registrar, and one with which the aggregator shows who it is."""
    issuer, authority_key = authority_of(folder)
    names = [alternative_name(each) for each in dict.fromkeys([host, "127.0.0.1"])]
    sides = {
        "aggregator/client": ("aggregator", ExtendedKeyUsageOID.CLIENT_AUTH, []),
        "registrar/registrar": (
            "registrar",
            ExtendedKeyUsageOID.SERVER_AUTH,
            [(x509.SubjectAlternativeName(names), False)],
        ),
    }
    for place, (name, usage, more) in sides.items():
        key = ec.generate_private_key(ec.SECP256R1())
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (x509.ExtendedKeyUsage([usage]), False),
            (
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
                False,
            ),
            *more,
        ]
        made = certificate(name, key, issuer, authority_key, extensions)
        write(folder / f"{place}.key", private_pem(key), secret=True)
        write(folder / f"{place}.pem", made.public_bytes(serialization.Encoding.PEM))


def alternative_name(host: str) -> x509.GeneralName:
    """Return a host as an entry of a certificate's list of names."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def make_key_pair(folder: Path, partition: int) -> None:
    """Write the key pair with which one SuperNode shows who it is."""
    key = ec.generate_private_key(ec.SECP384R1())
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    write(folder / "supernodes" / str(partition) / "node.key", secret, secret=True)
    write(folder / "public" / f"{partition}.pub", public + b"\n")


def make_identities(folder: Path, supernodes: int) -> None:
    """Write the key with which each client signs, and the roster of all their public keys.

    Clients that encrypt check each other's messages with it, so it must not come from the server.
    """
    listed = folder / "public" / "roster.json"
    roster = json.loads(listed.read_text()) if listed.exists() else {}
    for partition in range(supernodes):
        path = folder / "supernodes" / str(partition) / "identity"
        if not path.exists():
            write(
                path, Ed25519PrivateKey.generate().private_bytes_raw().hex().encode(), secret=True
            )
        key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text()))
        roster[str(partition)] = key.public_key().public_bytes_raw().hex()
    write(listed, json.dumps(roster, indent=1).encode() + b"\n")


def main() -> None:
    """Write what is missing in a folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--supernodes", type=int, default=5, help="number of key pairs")
    parser.add_argument("--host", action="append", default=[], help="name or address; repeatable")
    parser.add_argument("--renew", action="store_true", help="the SuperLink's certificate and key")
    parser.add_argument("--registrar", help="name or address of a registrar, if there is one")
    arguments = parser.parse_args()
    # Flower's own processes on the SuperLink's machine reach it over loopback.
    hosts = list(dict.fromkeys([*arguments.host, "localhost", "127.0.0.1"]))
    if not (arguments.folder / "public" / "ca.crt").exists():
        make_tls(arguments.folder, hosts)
    elif arguments.renew:
        make_server(arguments.folder, hosts, *authority_of(arguments.folder))
    for partition in range(arguments.supernodes):
        if not (arguments.folder / "public" / f"{partition}.pub").exists():
            make_key_pair(arguments.folder, partition)
    make_identities(arguments.folder, arguments.supernodes)
    if arguments.registrar and not (arguments.folder / "registrar" / "registrar.pem").exists():
        make_registrar_tls(arguments.folder, arguments.registrar)
    print(f"certificates and {arguments.supernodes} key pairs are in {arguments.folder}")


if __name__ == "__main__":
    main()
