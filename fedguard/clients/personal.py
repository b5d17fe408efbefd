"""Personal parts: tensors of a model that stay with each client, and those that are shared."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedguard.errors import ConfigurationError
from fedguard.layout import PERSONAL, ParameterLayout

OWN = "personal"
"""Where a client's memory keeps its own part, as one (P,) vector."""


class PersonalParts:
    """Puts a model together from what is shared and what is a client's own, and takes it apart.

    Parameters
    ----------
    whole : ParameterLayout
        Of the whole model, D entries.
    private : frozenset of str
        Names of the tensors that stay with each client.

    Attributes
    ----------
    shared : ParameterLayout
        Of what travels, S entries; all that servers, defences and attackers see.

    Raises
    ------
    ConfigurationError
        If nothing would stay, or nothing that is trained would be shared.
    """

    def __init__(self, whole: ParameterLayout, private: frozenset[str]) -> None:
        self.layout = whole
        self.shared = whole.without(private)
        self.names = tuple(name for name in whole.names if name in private)
        if not self.names or not self.shared.num_trainable:
            told = ", ".join(sorted(private))
            allowed = f"some of what is trained, not all: {', '.join(whole.names)}"
            raise ConfigurationError("training.personal", told, allowed)
        places = {
            name: torch.arange(start, end)
            for name, start, end in zip(whole.names, whole.offsets, whole.offsets[1:], strict=False)
        }
        self._shared = torch.cat([places[name] for name in self.shared.names])
        self._own = torch.cat([places[name] for name in self.names])

    def whole(self, shared: Tensor, own: Tensor) -> Tensor:
        """Return the (D,) model of a (S,) shared and a (P,) own part."""
        found = torch.empty(self.layout.size, device=shared.device)
        found[self._shared.to(shared.device)] = shared
        found[self._own.to(shared.device)] = own.to(shared.device)
        return found

    def shared_of(self, whole: Tensor) -> Tensor:
        """Return the (S,) entries of a (D,) vector that are shared."""
        return whole[self._shared.to(whole.device)]

    def own_of(self, whole: Tensor) -> Tensor:
        """Return the (P,) entries of a (D,) vector that are a client's own."""
        return whole[self._own.to(whole.device)]

    def named(self, own: Tensor) -> dict[str, Tensor]:
        """Return a (P,) own part by name and in shape."""
        whole = torch.zeros(self.layout.size)
        whole[self._own] = own.detach().cpu()
        tensors = self.layout.unflatten(whole)
        return {name: tensors[name].clone() for name in self.names}


def leave_with_clients(module: nn.Module, private: frozenset[str]) -> nn.Module:
    """Mark tensors of the server's model as the clients' own: no layout of it holds them.

    They keep their first values there, and nothing that the server trains moves them.
    """
    if private:
        setattr(module, PERSONAL, private)
        for name, value in module.named_parameters():
            if name in private:
                value.requires_grad = False
    return module
