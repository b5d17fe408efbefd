"""Who somebody is: names in a node's configuration, and Flower's task identity.

The one place that touches the latter.

Flower 1.41 takes the sender of a new `Message` from `flwr.supercore.task_identity.TaskIdentity`,
which only its own processes set. Our grids that live outside a Flower run set it here.
"""

from __future__ import annotations

from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.task_identity import TaskIdentity

LOCAL_RUN_ID = 1

PARTITION_KEY = "partition-id"
"""What a node's configuration calls the number of the client that it is."""

SIZE_KEY = "num-partitions"
"""What it calls the number of clients."""


def assume_server_identity() -> None:
    """Let this process build messages as the server, unless a Flower run has set an identity."""
    try:
        _ = TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id
    except RuntimeError:
        TaskIdentity.task_id = 1
        TaskIdentity.run_id = LOCAL_RUN_ID
        TaskIdentity.node_id = SUPERLINK_NODE_ID
