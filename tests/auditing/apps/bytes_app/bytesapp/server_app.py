"""bytesapp: a strategy of its own that collects what clients add."""

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from bytesapp.task import pack, unpack

app = ServerApp()


class Bagging(FedAvg):
    def configure_train(self, server_round, arrays, config, grid):
        self.known = unpack(arrays)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        for reply in replies:
            if reply.has_content():
                self.known += unpack(reply.content["arrays"])
        return ArrayRecord([pack(self.known)]), None


@app.main()
def main(grid: Grid, context: Context) -> None:
    Bagging().start(
        grid=grid,
        initial_arrays=ArrayRecord([pack([])]),
        num_rounds=context.run_config["num-server-rounds"],
    )
