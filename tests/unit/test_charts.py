import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from batch_runner.charts import (
    Layer,
    Tick,
    TimeAxis,
    area_over_time,
    ceiling,
    columns_over_time,
    fit_narrow,
    latency_columns,
)
from batch_runner.tally import LatencyHistogram
from batch_runner.timeline import Timeline


def timeline(rows=50):
    line = Timeline()
    for row in range(rows):
        line.add(1.7e9 + row / 10, 1.7e9 + row / 10 + 0.5, failed=row % 7 == 0, repeats=0)
    return line


@pytest.mark.parametrize(
    ("value", "top"),
    [(0, 1), (0.3, 0.3), (1, 1), (1.01, 2), (26, 30), (48, 50), (51, 60), (2000, 2000)],
)
def test_an_axis_ends_at_a_round_number(value, top):
    assert ceiling(value) == pytest.approx(top)


@pytest.mark.parametrize("rows", [1, 50, 5000])
def test_charts_are_well_formed_and_bounded(rows):
    axis = TimeAxis(timeline(rows))
    values = [one.answered for one in axis.bins]
    words = ["<script>" for _ in values]
    for chart in (
        columns_over_time(axis, [Layer("good", values), Layer("bad", values)], words),
        area_over_time(axis, values, [(1.7e9 + 0.2, 3), (1.7e9 + 0.4, 5)], words),
    ):
        ET.fromstring(chart.svg)
        assert len(chart.svg) < 60_000
        assert all(0 <= tick.at <= 100 for tick in [*chart.below, *chart.beside])
        assert "<script>" not in chart.svg


def test_quantiles_stand_inside_the_latency_chart():
    histogram = LatencyHistogram()
    for seconds in (0.002, 0.4, 0.5, 0.6, 90.0):
        histogram.add(seconds)
    chart = latency_columns(histogram, [0.5])
    ET.fromstring(chart.svg)
    assert chart.svg.count('class="mark"') == 1
    assert [tick.words for tick in chart.below][-1] == "10s"


@pytest.mark.parametrize("longest", [0.3, 1.0, 40.0, 3000.0])
def test_the_labels_of_durations_stand_at_even_steps_in_one_way_of_writing(longest):
    histogram = LatencyHistogram()
    for seconds in (0.04, 0.05, longest):
        histogram.add(seconds)
    below = latency_columns(histogram, []).below
    steps = [after.at - before.at for before, after in pairwise(below)]
    assert len(below) >= 3
    assert max(steps) < 1.5 * min(steps)
    assert not any(tick.words.startswith("0.") for tick in below)


def test_durations_that_are_alike_stand_in_the_middle():
    histogram = LatencyHistogram()
    histogram.add(0.9)
    chart = latency_columns(histogram, [0.9])
    width = float(re.search('viewBox="0 0 ([0-9]+) ', chart.svg)[1])
    mark = float(re.search('class="mark" d="M([0-9.]+) ', chart.svg)[1])
    assert 0.4 < mark / width < 0.6


@pytest.mark.parametrize(("every", "most"), [(0.9, 4), (10.0, 0.5)])
def test_a_slow_run_is_drawn_at_the_rate_it_had(every, most):
    line = Timeline()
    for row in range(33):
        line.add(1.7e9 + row * every, 1.7e9 + (row + 1) * every, failed=False, repeats=0)
    axis = TimeAxis(line)
    rates = [one.answered / axis.width for one in axis.bins]
    assert axis.width >= 1
    assert max(rates) <= most
    assert sum(rates) / len(rates) == pytest.approx(1 / every, rel=0.2)


def test_what_a_dotted_line_leaves_out_is_told():
    line = Timeline()
    for begin in (1.7e9, 1.7e9 + 600):
        line.add(begin, begin + 20, failed=False, repeats=0)
    assert TimeAxis(timeline()).cut_out() == ""
    assert TimeAxis(line).cut_out() == "a pause of 9m 38s, cut out"


def test_no_calls_make_an_empty_chart():
    ET.fromstring(latency_columns(LatencyHistogram(), []).svg)
    assert TimeAxis(Timeline()).ticks() == []


@pytest.mark.parametrize(
    ("pause", "begins"), [(600, ["22:13:20", "22:23:20"]), (86_400, ["Nov 14, 22:13", "Nov 15, 22:13"])]
)  # fmt: skip
def test_runs_with_a_pause_between_are_labelled_where_they_begin_and_within(pause, begins):
    line = Timeline()
    for begin, rows in ((1.7e9, 1200), (1.7e9 + pause, 400)):
        for row in range(rows):
            at = begin + row / 10
            line.add(at, at + 0.5, failed=False, repeats=0)
    ticks = TimeAxis(line).ticks()
    words = [tick.words for tick in ticks]
    assert {*begins} < {*words}
    assert len({*words}) == len(words)
    assert all(after.at - before.at >= 12 for before, after in pairwise(ticks))


def test_on_a_phone_no_label_runs_into_the_next():
    ticks = [Tick(0.0, "00:07:44"), Tick(20.0, "00:08:14"), Tick(50.0, "1s"), Tick(60.0, "2s")]
    assert [*fit_narrow(ticks)] == [True, False, True, True]
