"""The server: nothing but the adapters is in its record."""

from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from peft import set_peft_model_state_dict
from safetensors.torch import save_file

from flowertune.data import all_rows
from flowertune.models import get_encoder, get_model, loss_of, settings

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    model, first = get_model(settings(config))

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        set_peft_model_state_dict(model, arrays.to_torch_state_dict())
        with torch.no_grad():
            loss = loss_of(model, all_rows(get_encoder(config["model"])))
        return MetricRecord({"loss": float(loss)})

    strategy = FedAvg(
        fraction_train=config["fraction-train"], fraction_evaluate=config["fraction-evaluate"]
    )
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(first),
        train_config=ConfigRecord({"save_path": config["save-path"]}),
        num_rounds=config["num-server-rounds"],
        evaluate_fn=evaluate,
    )
    if config["save-path"]:
        adapters = result.arrays.to_torch_state_dict()
        save_file(adapters, Path(config["save-path"]) / "adapter.safetensors")
