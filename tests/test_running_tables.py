"""What tables share: many runs, of which one cannot be made."""

from __future__ import annotations

import pytest

from fedguard.errors import RunError
from simulations.common import Cell, run_cells


def test_what_is_wrong_with_the_first_run_is_told_before_all_others_were_tried(tmp_path):
    wrong = {"dataset": "fashion-mnist", "data_dir": str(tmp_path / "nowhere")}
    cells = [Cell((str(seed),), {**wrong, "seed": seed}) for seed in range(40)]
    with pytest.raises(RunError, match=r"data_dir: .*nowhere' is not valid"):
        run_cells(cells, tmp_path / "runs", jobs=1)
    assert len(list((tmp_path / "runs").iterdir())) < 20
