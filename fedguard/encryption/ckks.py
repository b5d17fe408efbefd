"""Plain CKKS: TenSEAL as most examples use it, one key pair for all clients."""

from __future__ import annotations

from typing import Any

from fedguard.encryption.errors import BackendUnavailableError
from fedguard.encryption.lattice import tenseal_vectors as vectors
from fedguard.encryption.lattice.backend import make_backend
from fedguard.encryption.lattice.sampling import SystemRandom
from fedguard.encryption.protocol.agreement import Agreement
from fedguard.encryption.protocol.endpoint import ClientOptions
from fedguard.encryption.protocol.shared_key_group import SharedKeyGroup
from fedguard.encryption.protocol.shared_key_server import SharedKeyServer
from fedguard.encryption.strategy import EncryptedStrategy
from fedguard.errors import ConfigurationError


class Ckks(EncryptedStrategy):
    r"""Average updates that clients encrypt under one key pair, which the server does not hold.

    The first client of a group draws the key and seals it for the others; the server adds
    ciphertexts; each round most clients confirm what is in the sum, and another one decrypts it and
    releases it with flooding. See `fedguard.encryption.protocol.shared_key`.

    Cheon, Kim, Kim and Song, "Homomorphic Encryption for Arithmetic of Approximate Numbers",
    ASIACRYPT 2017, through TenSEAL. It protects clients from the server alone: any one client that
    colludes with it opens every update. For comparison; `XmkCkks` does not have this weakness.

    Parameters
    ----------
    **encrypted : Any
        See `EncryptedStrategy`: `groups`, `rule`, `minimum_participants`, ...

    Notes
    -----
    .. math::
       \delta = \frac{1}{\sum_i w_i} \mathrm{Dec}_s \left( \sum_i \mathrm{Enc}_s(w_i \delta_i)
       \right)

    where :math:`\delta_i` is client i's update with its entries clipped, :math:`w_i` its examples
    in units of a limit that the group agrees on, at most 1, whose sum is encrypted beside it, and s
    the key that all clients of a group share.
    """

    def __init__(self, **encrypted: Any) -> None:
        super().__init__(**encrypted)
        if self.insecure_seed is not None:
            raise ConfigurationError(
                "insecure_seed", self.insecure_seed, "nothing: TenSEAL's randomness has no seed"
            )
        try:
            make_backend("tenseal", SystemRandom())
        except BackendUnavailableError as error:
            raise ConfigurationError("strategy", "ckks", f"xmkckks here: {error}") from error

    @property
    def client_options(self) -> ClientOptions:
        """How clients must be set up."""
        return ClientOptions("ckks", "tenseal", self.guards)

    def make_group(self, cohort: tuple[int, ...], size: int) -> SharedKeyGroup:
        """Return the protocol of one group; see `EncryptedStrategy.make_group`."""

        def make_server(server_round: int, attempt: int, among: tuple[int, ...]) -> SharedKeyServer:
            terms = Agreement(server_round, attempt, among, "default", "slots")
            return SharedKeyServer(terms, size)

        return SharedKeyGroup(cohort, make_server)

    def describe(self, clients: int) -> str:
        """Return one line on what this mode protects and how well."""
        recipe = vectors.CHAIN
        return (
            f"ckks, ring degree {recipe.ring_degree}, {sum(recipe.key_bits)}-bit key modulus, "
            f"RLWE security 128 bits, released sums {vectors.STATISTICAL_BITS:.0f} statistical "
            f"bits for {vectors.RELEASES} ciphertexts; against the server alone, with {clients} "
            "clients sharing one key"
        )
