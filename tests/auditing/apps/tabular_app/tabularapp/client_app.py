"""tabularapp: clients with rows of a table."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from tabularapp.task import Classifier, evaluate, load_data, train

app = ClientApp()


def prepared(msg: Message, context: Context):
    model = Classifier()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    place = context.node_config
    return model, load_data(place["partition-id"], place["num-partitions"])


@app.train()
def train_fn(msg: Message, context: Context) -> Message:
    model, (loader, _) = prepared(msg, context)
    train(model, loader, context.run_config["local-epochs"], context.run_config["learning-rate"])
    content = RecordDict(
        {
            "arrays": ArrayRecord(model.state_dict()),
            "metrics": MetricRecord({"num-examples": len(loader.dataset)}),
        }
    )
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate_fn(msg: Message, context: Context) -> Message:
    model, (_, loader) = prepared(msg, context)
    loss, accuracy = evaluate(model, loader)
    metrics = {"loss": loss, "accuracy": accuracy, "num-examples": len(loader.dataset)}
    return Message(content=RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)
