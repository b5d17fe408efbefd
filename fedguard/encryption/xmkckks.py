"""Multi-key CKKS: every client has a key of its own, and only sums open."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fedguard.encryption.lattice.backend import BackendName
from fedguard.encryption.lattice.packing import PackingName, make_packing
from fedguard.encryption.lattice.profiles import profile as find_profile
from fedguard.encryption.protocol.agreement import MAX_ANSWERS
from fedguard.encryption.protocol.endpoint import ClientOptions
from fedguard.encryption.protocol.multi_key_group import MultiKeyGroup, Terms
from fedguard.encryption.protocol.weights import EXTRAS
from fedguard.encryption.strategy import EncryptedStrategy
from fedguard.errors import ConfigurationError, check_choice, check_number


class XmkCkks(EncryptedStrategy):
    r"""Average updates that each client encrypts under the sum of all clients' keys.

    See `fedguard.encryption.lattice.multikey` for the algebra and
    `fedguard.encryption.protocol.client` for the protocol and its guards.

    A reading of Ma, Naas, Sigg and Lyu, "Privacy-preserving federated learning based on multi-key
    homomorphic encryption", International Journal of Intelligent Systems 37(9), 2022; with a
    threshold, of Mouchet, Bertrand and Hubaux, Journal of Cryptology 36, 2023. Ours: fresh keys
    per round, exchanged ahead so that a round takes two trips; commitments, signatures, the
    transcript check and one answer per key, which make some active attacks by the server fail; the
    checksum; coefficient packing; rounding of what carries the message. It protects a client from
    an honest-but-curious server and up to n - 2 colluding clients (t - 1 with a threshold).

    Parameters
    ----------
    profile : str
        Parameter set: ``"light"``, ``"default"``, ``"wide"``.
    packing : str
        ``"coefficients"`` or ``"slots"``.
    threshold : int
        How many clients must answer for the sum to open, more than half of a group; 0 for all.
    backend : str
        ``"auto"``, ``"tenseal"`` or ``"numpy"``; of the clients.
    **encrypted : Any
        See `EncryptedStrategy`: `groups`, `rule`, `minimum_participants`, ...

    Notes
    -----
    .. math::
       \delta = \frac{C_0 + \sum_i D_i}{\sum_i w_i}, \qquad
       (C_0, C_1) = \sum_i \mathrm{Enc}_b(w_i \delta_i), \qquad D_i = s_i C_1 + e^*_i

    where :math:`\delta_i` is client i's update with its entries clipped, :math:`w_i` its examples
    in units of a limit that the group agrees on, at most 1, whose sum is encrypted beside it,
    :math:`s_i` its secret key, b the sum of all public keys, and :math:`e^*_i` the noise that hides
    its share.
    """

    def __init__(
        self,
        *,
        profile: str = "default",
        packing: PackingName = "coefficients",
        threshold: int = 0,
        backend: BackendName = "auto",
        **encrypted: Any,
    ) -> None:
        super().__init__(**encrypted)
        self.profile = find_profile(profile)
        check_choice("packing", packing, ("coefficients", "slots"))
        check_choice("backend", backend, ("auto", "tenseal", "numpy"))
        check_number("threshold", threshold, at_least=0)
        if threshold and threshold < self.guards.minimum_participants:
            raise ConfigurationError(
                "threshold", threshold, f"0, or at least {self.guards.minimum_participants}"
            )
        self.packing: PackingName = packing
        self.threshold = threshold
        self.backend: BackendName = backend

    @property
    def client_options(self) -> ClientOptions | None:
        """How clients must be set up; see `EncryptedStrategy.client_options`."""
        guards = replace(self.guards, smallest_profile=self.profile.name)
        return ClientOptions("xmkckks", self.backend, guards, self.insecure_seed)

    def make_group(self, cohort: tuple[int, ...], size: int) -> MultiKeyGroup:
        """Return the protocol of one group; see `EncryptedStrategy.make_group`."""
        make_packing(self.packing, self.profile, len(cohort))
        if self.threshold and not len(cohort) < 2 * self.threshold <= 2 * len(cohort):
            raise ConfigurationError(
                "threshold",
                self.threshold,
                f"more than half of a group and at most all of it, {len(cohort) // 2 + 1} to "
                f"{len(cohort)}",
            )
        terms = Terms(self.profile.name, self.packing, self.threshold, size)
        return MultiKeyGroup(cohort, terms)

    def describe(self, clients: int) -> str:
        """Return one line on what this mode protects and how well."""
        size = self.layout.size if self.layout else 1
        count = make_packing(self.packing, self.profile, clients).count(size + EXTRAS)
        return "xmkckks, " + self.profile.describe(
            clients,
            count,
            answers=MAX_ANSWERS if self.threshold else 1,
            special_prime=self.backend != "numpy" and self.insecure_seed is None,
        )
