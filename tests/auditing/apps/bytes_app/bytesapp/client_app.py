"""bytesapp: each client adds two pictures of its own."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from bytesapp.task import accuracy, load_data, pack, unpack

app = ClientApp()


@app.train()
def train(msg: Message, context: Context):
    x, y = load_data(context)
    first = 3 * msg.content["config"]["server-round"]
    own = [[int(y[place]), x[place].round(2).tolist()] for place in range(first, first + 3)]
    metrics = MetricRecord({"num-examples": len(y)})
    content = RecordDict({"arrays": ArrayRecord([pack(own)]), "metrics": metrics})
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    x, y = load_data(context)
    found = accuracy(unpack(msg.content["arrays"]), x, y)
    metrics = MetricRecord({"accuracy": found, "num-examples": len(y)})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=msg)
