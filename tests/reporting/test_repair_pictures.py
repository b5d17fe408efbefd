"""Pictures of repairs: channels that are shut, where the model looks; from lines of any kind."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from fedguard.records.reader import read_run
from fedguard.reporting.events import repairs_section
from fedguard.reporting.repair_pictures import attention_picture, channel_picture
from fedguard.training.attention import attention_maps

LINE = {
    "round": 3,
    "repair": "rnp",
    "pruned": 2,
    "layer_sizes": [3, 2],
    "shut_channels": [[0, 2], []],
    "attention_before": [[[1.0, 0.5], [0.25, 0.0]]],
    "attention_after": [[[0.0, 1.0], [0.0, 0.0]]],
}


def test_shut_channels_are_marked_where_they_are_and_shorter_layers_end():
    (drawn,) = channel_picture(LINE).data
    assert drawn.z.tolist()[0] == [1.0, 0.0, 1.0]
    assert drawn.z.tolist()[1][:2] == [0.0, 0.0]
    assert math.isnan(drawn.z[1][2])
    assert list(drawn.y) == ["layer 1", "layer 2"]


def test_attention_stands_before_above_after_with_its_first_row_on_top():
    before, after = attention_picture(LINE).data
    assert before.z.tolist() == [[0.25, 0.0], [1.0, 0.5]]
    assert after.z.tolist() == [[0.0, 0.0], [0.0, 1.0]]
    assert (before.yaxis, after.yaxis) == ("y", "y2")


@pytest.mark.parametrize(
    "line",
    [
        {},
        {"layer_sizes": "many", "shut_channels": 3, "attention_before": 1},
        {"layer_sizes": [-4, None, "x"], "attention_before": [[]], "attention_after": [[]]},
        {"layer_sizes": [], "attention_before": [[[1.0], [1.0, 2.0]]], "attention_after": [[[1]]]},
        {"attention_before": [[["<b>"]]], "attention_after": [[[1.0]]]},
        {"attention_before": [[[0.1] * 40]], "attention_after": [[[0.1] * 40]]},
    ],
)
def test_lines_without_what_can_be_drawn_have_no_picture(line):
    assert channel_picture(line) is None
    assert attention_picture(line) is None


def test_numbers_out_of_range_are_left_out_or_bounded():
    (drawn,) = channel_picture({"layer_sizes": [2, 10**9], "shut_channels": [[7, -1, 1]]}).data
    assert drawn.z[0].tolist()[:2] == [0.0, 1.0]
    assert drawn.z.shape == (2, 1024)
    big = {"attention_before": [[[9.0]]], "attention_after": [[[-9.0]]]}
    assert [part.z.tolist() for part in attention_picture(big).data] == [[[1.0]], [[0.0]]]


def test_the_report_shows_the_pictures_and_lists_no_map(tmp_path):
    (tmp_path / "repairs.jsonl").write_text(json.dumps(LINE) + "\n")
    page = repairs_section(read_run(tmp_path))
    assert "channels that are shut after the last repair" in page
    assert "where the model looks, before and after" in page
    assert "<th>attention" not in page
    assert "layer sizes" not in page


def test_attention_is_one_where_the_last_maps_are_largest():
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten(), nn.Linear(8, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([3.0, 4.0]).view(2, 1, 1, 1))
    x = torch.tensor([[[[1.0, 2.0], [0.0, 4.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    found = attention_maps(model, x)
    torch.testing.assert_close(found[0], torch.tensor([[1.0, 4.0], [0.0, 16.0]]) / 16.0)
    assert not bool(found[1].any())
    assert attention_maps(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), x) is None
