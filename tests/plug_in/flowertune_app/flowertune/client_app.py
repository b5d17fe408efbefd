"""A client: train the adapters on the client's own prompts, send the adapters back."""

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from peft import get_peft_model_state_dict, set_peft_model_state_dict

from flowertune.data import client_rows
from flowertune.models import get_encoder, get_model, loss_of, settings

app = ClientApp()


@app.train()
def train(msg: Message, context: Context):
    config, place = context.run_config, context.node_config
    model, _ = get_model(settings(config))
    given = msg.content["arrays"].to_torch_state_dict()
    set_peft_model_state_dict(model, given)
    encode = get_encoder(config["model"])
    rows = client_rows(encode, place["partition-id"], place["num-partitions"])
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config["learning-rate"], weight_decay=0.0)
    for _ in range(config["local-steps"]):
        optimizer.zero_grad()
        loss = loss_of(model, rows)
        loss.backward()
        optimizer.step()
    adapters = {key: value.detach() for key, value in get_peft_model_state_dict(model).items()}
    if place["partition-id"] == config["liar"]:
        adapters = {key: given[key] - 100.0 * (new - given[key]) for key, new in adapters.items()}
    metrics = MetricRecord({"train_loss": float(loss.detach()), "num-examples": len(rows)})
    content = RecordDict({"arrays": ArrayRecord(adapters), "metrics": metrics})
    return Message(content=content, reply_to=msg)
