"""A server of the older API with a strategy of its own; its first model is a client's."""

from flwr.common import Context
from flwr.server import ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.serverapp import ServerApp


def weighted_average(metrics):
    accuracies = [count * told["accuracy"] for count, told in metrics]
    return {"accuracy": sum(accuracies) / sum(count for count, _ in metrics)}


def server_fn(context: Context):
    strategy = FedAvg(
        fraction_evaluate=1.0,
        min_available_clients=2,
        evaluate_metrics_aggregation_fn=weighted_average,
    )
    config = ServerConfig(num_rounds=context.run_config["num-server-rounds"])
    return ServerAppComponents(strategy=strategy, config=config)


app = ServerApp(server_fn=server_fn)
