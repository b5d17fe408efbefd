"""sklearnapp: a Flower / scikit-learn app."""

import warnings

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from sklearn.metrics import log_loss

from sklearnapp.task import create_model, load_data, set_params

app = ClientApp()


def prepared(msg, context):
    model = create_model(context.run_config["penalty"], context.run_config["local-epochs"])
    set_params(model, msg.content["arrays"].to_numpy_ndarrays())
    data = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    return model, data


@app.train()
def train(msg: Message, context: Context):
    model, (x_train, _, y_train, _) = prepared(msg, context)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x_train, y_train)
    loss = log_loss(y_train, model.predict_proba(x_train), labels=range(10))
    metrics = {"num-examples": len(x_train), "train_logloss": loss}
    arrays = ArrayRecord([model.coef_, model.intercept_])
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord(metrics)})
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    model, (_, x_test, _, y_test) = prepared(msg, context)
    loss = log_loss(y_test, model.predict_proba(x_test), labels=range(10))
    metrics = {
        "num-examples": len(x_test),
        "test_logloss": loss,
        "accuracy": float(model.score(x_test, y_test)),
    }
    return Message(content=RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)
