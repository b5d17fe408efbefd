"""sklearnapp: a Flower / scikit-learn app."""

import joblib
import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from sklearnapp.task import create_model, set_params

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    model = create_model(context.run_config["penalty"], context.run_config["local-epochs"])
    arrays = ArrayRecord([np.zeros((10, 64)), np.zeros(10)])
    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=1.0)
    result = strategy.start(
        grid=grid, initial_arrays=arrays, num_rounds=context.run_config["num-server-rounds"]
    )
    set_params(model, result.arrays.to_numpy_ndarrays())
    joblib.dump(model, "logreg_model.pkl")
