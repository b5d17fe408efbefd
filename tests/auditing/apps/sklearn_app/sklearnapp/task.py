"""sklearnapp: the model and the data."""

from functools import cache

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split


@cache
def digits():
    return load_digits(return_X_y=True)


def load_data(partition_id, num_partitions):
    x, y = digits()
    rows = slice(partition_id, None, num_partitions)
    return train_test_split(x[rows] / 16.0, y[rows], test_size=0.2, shuffle=False)


def create_model(penalty, local_epochs):
    return LogisticRegression(C=1.0, max_iter=local_epochs, warm_start=True)


def set_params(model, arrays):
    model.classes_ = np.arange(10)
    model.coef_, model.intercept_ = (array.copy() for array in arrays)
    return model
