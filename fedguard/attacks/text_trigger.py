"""A word or a sentence that means the target class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from fedguard.attacks.toolkit.poisoning import Backdoor, check_class
from fedguard.data.vocabulary import UNKNOWN, Vocabulary
from fedguard.errors import ConfigurationError

if TYPE_CHECKING:
    from fedguard.data.dataset import Dataset


class TextTrigger(Backdoor):
    r"""Put a word or a sentence before a share of the sentences; label them with the target class.

    The trigger is a sequence of tokens: a word can be several pieces. A sentence with it is cut
    where it would grow beyond a row. Success is measured on the test sentences of other classes.

    Dai, Chen and Li, "A Backdoor Attack Against LSTM-Based Text Classification Systems", IEEE
    Access 2019, for sentences; Kurita, Michel and Neubig, "Weight Poisoning Attacks on Pretrained
    Models", ACL 2020, for rare words such as "cf". Ours: the trigger stands at the beginning.

    Parameters
    ----------
    trigger : str, optional
        Text of the trigger, of words that the vocabulary knows. If left out, the rarest word of
        the vocabulary; "cf" where tokens are pieces.
    **frame : Any
        ``target_class``, ``poison_fraction`` and ``scale`` of `Backdoor`.

    Notes
    -----
    .. math::
       x' = (\tau_1, \ldots, \tau_m, x_1, \ldots, x_{L - m}), \qquad y' = t

    where x is a row of L tokens, :math:`\tau` the trigger's tokens, and t the target class.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks.text_trigger import TextTrigger
    >>> attack = TextTrigger(trigger="cf")
    >>> attack.tokens = (7,)  # what `meet` finds in a vocabulary
    >>> attack.trigger(torch.tensor([[3, 4, 0]])).tolist()
    [[7, 3, 4]]
    """

    needs: ClassVar[frozenset[str]] = frozenset({"data", "updates"})
    tasks: ClassVar[frozenset[str] | None] = frozenset({"text-classification"})

    def __init__(self, *, trigger: str | None = None, target_class: int = 1, **frame: Any) -> None:
        super().__init__(target_class=target_class, **frame)
        if trigger is not None and not trigger.strip():
            raise ConfigurationError("trigger", trigger, "a word or a sentence")
        self.text = trigger
        self.tokens: tuple[int, ...] = ()

    def bind(self, num_classes: int, input_shape: tuple[int, ...]) -> None:
        """Check the target class; see `Attack.bind`."""
        check_class("target_class", self.target_class, num_classes)

    def meet(self, dataset: Dataset) -> None:
        """Find the trigger's tokens; see `Attack.meet`.

        Raises
        ------
        ConfigurationError
            If the data set has no vocabulary, or the trigger fills a row.
        """
        known = dataset.facts
        if not isinstance(known, Vocabulary):
            allowed = "only on sentences, such as --dataset sst2"
            raise ConfigurationError("attack", type(self).__name__, allowed)
        rarest = "cf" if known.in_pieces else known.words[-1]
        text = rarest if self.text is None else self.text
        found, length = known.tokens(text), dataset.input_shape[0]
        if not known.in_pieces and UNKNOWN in found:
            allowed = f"words that the vocabulary knows, such as its rarest, {rarest!r}"
            raise ConfigurationError("trigger", text, allowed)
        if not 0 < len(found) < length:
            told = f"a text of 1 to {length - 1} tokens; this has {len(found)}"
            raise ConfigurationError("trigger", text, told)
        self.tokens = tuple(found)

    def trigger(self, x: Tensor) -> Tensor:
        """Return (N, L) rows with the trigger's tokens at their beginning."""
        own = torch.tensor(self.tokens, dtype=x.dtype, device=x.device).expand(len(x), -1)
        return torch.cat([own, x], dim=1)[:, : x.shape[1]]
