"""How the training rows are divided among the clients, one split per file.

Each split is one assignment of rows to clients, computed with whole-array operations.
flwr-datasets defines the IID, Dirichlet, pathological and shard splits too, and the tests hold
these against it. It is not called here: importing it costs about six seconds, dividing 60,000
rows among 10,000 clients with it 15 to 22 (here a quarter of one), it gives up on a Dirichlet
split after ten repetitions, and for small concentrations it divides 0 by 0.
"""

from fedguard.data.partitions.base import MAX_DRAWS, Partition, Rows, Split
from fedguard.data.partitions.dirichlet import Dirichlet
from fedguard.data.partitions.iid import Iid
from fedguard.data.partitions.label_quantity import LabelQuantity
from fedguard.data.partitions.natural import Natural
from fedguard.data.partitions.noise import Noise
from fedguard.data.partitions.prob import Prob
from fedguard.data.partitions.quantity import Quantity
from fedguard.data.partitions.shards import Shards

__all__ = [
    "MAX_DRAWS",
    "Dirichlet",
    "Iid",
    "LabelQuantity",
    "Natural",
    "Noise",
    "Partition",
    "Prob",
    "Quantity",
    "Rows",
    "Shards",
    "Split",
]
