"""treesapp: boosting whose trees travel in the JSON in which XGBoost writes them."""

import json
from functools import cache

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.tree import DecisionTreeRegressor


@cache
def table():
    return load_breast_cancer(return_X_y=True)


def load_data(partition_id, num_partitions):
    x, y = table()
    x, y = x[partition_id::num_partitions], y[partition_id::num_partitions]
    cut = int(0.7 * len(y))
    return x[:cut], y[:cut], x[cut:], y[cut:]


def margins(model, x):
    found = np.zeros(len(x))
    for tree in model["learner"]["gradient_booster"]["model"]["trees"]:
        place = np.zeros(len(x), dtype=int)
        for _ in range(tree["depth"]):
            split = np.array(tree["feature"])[place]
            left = x[np.arange(len(x)), split] <= np.array(tree["threshold"])[place]
            step = np.where(left, np.array(tree["left"])[place], np.array(tree["right"])[place])
            place = np.where(split >= 0, step, place)
        found += np.array(tree["value"])[place]
    return found


def new_tree(margin, x, y, depth, eta):
    fitted = DecisionTreeRegressor(max_depth=depth, random_state=0)
    tree = fitted.fit(x, y - 1.0 / (1.0 + np.exp(-margin))).tree_
    return {
        "id": 0,
        "depth": depth,
        "feature": [int(f) if f >= 0 else -1 for f in tree.feature],
        "threshold": tree.threshold.tolist(),
        "left": tree.children_left.tolist(),
        "right": tree.children_right.tolist(),
        "value": (4.0 * eta * tree.value.reshape(-1)).tolist(),
    }


def pack(tree):
    booster = {
        "gbtree_model_param": {"num_trees": "1", "num_parallel_tree": "1"},
        "iteration_indptr": [0, 1],
        "trees": [tree],
        "tree_info": [0],
    }
    model = {"learner": {"gradient_booster": {"model": booster, "name": "gbtree"}}}
    return np.frombuffer(json.dumps(model).encode(), dtype=np.uint8)


def unpack(array):
    return json.loads(bytearray(array.tobytes()))
