"""pandasapp: histograms of all clients, added up."""

import numpy as np
from flwr.app import Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    for _ in range(context.run_config["num-server-rounds"]):
        messages = [
            Message(content=RecordDict(), message_type=MessageType.QUERY, dst_node_id=node)
            for node in grid.get_node_ids()
        ]
        total: dict[str, np.ndarray] = {}
        for reply in grid.send_and_receive(messages):
            for feature, counts in reply.content["query_results"].items():
                total[feature] = total.get(feature, 0) + np.array(counts)
        print(total)
