"""pandasapp: clients that answer queries about a data frame."""

import numpy as np
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from sklearn.datasets import load_breast_cancer

app = ClientApp()


@app.query()
def query(msg: Message, context: Context) -> Message:
    frame = load_breast_cancer(as_frame=True).frame
    part, parts = context.node_config["partition-id"], context.node_config["num-partitions"]
    frame = frame.iloc[part::parts]
    metrics = {}
    for feature in context.run_config["selected-features"].split(","):
        counts, _ = np.histogram(frame[feature], bins=np.linspace(0.0, 1000.0, 10))
        metrics[feature] = counts.tolist()
    content = RecordDict({"query_results": MetricRecord(metrics)})
    return Message(content=content, reply_to=msg)
