"""treesapp: every client adds one tree a round."""

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.config import unflatten_dict
from sklearn.metrics import roc_auc_score

from treesapp.task import load_data, margins, new_tree, pack, unpack

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    cfg = unflatten_dict(context.run_config)["params"]
    x, y, _, _ = load_data(
        context.node_config["partition-id"], context.node_config["num-partitions"]
    )
    array = msg.content["arrays"]["0"].numpy()
    first = msg.content["config"]["server-round"] == 1
    margin = np.zeros(len(y)) if first else margins(unpack(array), x)
    tree = new_tree(margin, x, y, cfg["max-depth"], cfg["eta"])
    content = RecordDict(
        {
            "arrays": ArrayRecord([pack(tree)]),
            "metrics": MetricRecord({"num-examples": len(y)}),
        }
    )
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    _, _, x, y = load_data(
        context.node_config["partition-id"], context.node_config["num-partitions"]
    )
    model = unpack(msg.content["arrays"]["0"].numpy())
    auc = float(roc_auc_score(y, margins(model, x)))
    metrics = MetricRecord({"auc": auc, "num-examples": len(y)})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=msg)
