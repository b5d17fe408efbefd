"""Touched rows: each row of a table is averaged over the clients whose update changes it."""

from __future__ import annotations

import torch
from torch import Tensor

from fedguard.errors import ConfigurationError, nearest
from fedguard.layout import ParameterLayout
from fedguard.strategies.pre_aggregation.base import PreAggregation
from fedguard.traits import Traits
from fedguard.updates import ClientUpdates


class TouchedRows(PreAggregation):
    r"""Scale each row of a table by how few clients touched it.

    A client touches a row of the table if any entry of its update there is not 0. The mean over
    all K clients after it is, row by row, the mean over those that touched the row: a row that few
    train is not diluted by those who never had it. So do recommenders treat their item tables, and
    so a rare item's row belongs to the few who claim to have it. The rule behind it sees ordinary
    updates with scaled entries; all other parameters stay as they are.

    Parameters
    ----------
    table : str
        Name of the tensor, of rows; ``items.weight`` for the recommenders.

    Notes
    -----
    .. math::
       y_{ir} = \frac{n}{\max(1, t_r)} x_{ir}, \qquad
       t_r = | \{ j : x_{jr} \ne 0 \} |

    where :math:`x_{ir}` is row r of the table in client i's update, and n the clients.

    Examples
    --------
    >>> import torch
    >>> from fedguard.layout import ParameterLayout
    >>> from fedguard.strategies.pre_aggregation import TouchedRows
    >>> from fedguard.updates import ClientUpdates
    >>> layout = ParameterLayout.from_module(torch.nn.Embedding(2, 1))
    >>> rows = torch.tensor([[1.0, 2.0], [1.0, 0.0]])
    >>> updates = ClientUpdates.from_matrix(rows, layout=layout)
    >>> TouchedRows(table="weight")(updates).deltas.tolist()
    [[1.0, 4.0], [1.0, 0.0]]
    """

    traits = Traits()

    def __init__(self, *, table: str = "items.weight") -> None:
        self.table = table

    def bind(self, layout: ParameterLayout) -> None:
        """Check that the model has such a table; see `PreAggregation.bind`."""
        tables = [n for n, s in zip(layout.names, layout.shapes, strict=True) if len(s) == 2]
        if self.table not in tables:
            told = nearest(self.table, tables) + (", ".join(tables[:8]) or "no table in this model")
            raise ConfigurationError("pre.table", self.table, told)

    def matrix(self, updates: ClientUpdates) -> Tensor:
        """Return the identity: no client's update enters another's."""
        return torch.eye(len(updates), dtype=torch.float64, device=updates.deltas.device)

    def apply(self, updates: ClientUpdates, matrix: Tensor) -> ClientUpdates:
        """Return the updates with the table's rows scaled, as they are where there is no table."""
        layout = updates.layout
        if self.table not in layout.names:
            return updates
        place = layout.names.index(self.table)
        start, end = layout.offsets[place], layout.offsets[place + 1]
        scaled = updates.deltas.clone()
        rows = scaled[:, start:end].view(len(updates), *layout.shapes[place])
        touched = (rows != 0).any(dim=2).sum(dim=0)
        rows *= (len(updates) / touched.clamp(min=1))[None, :, None]
        return ClientUpdates(
            deltas=scaled,
            num_examples=updates.num_examples,
            node_ids=updates.node_ids,
            global_vector=updates.global_vector,
            layout=layout,
            malformed=updates.malformed,
            remarks=updates.remarks,
            server_round=updates.server_round,
        )
