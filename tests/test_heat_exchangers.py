"""examples/heat_exchangers: the physics against independent computations, and what the generator writes."""

import json
import math
import random
import re
import sys

import numpy as np
import pytest
import torch

from conftest import ROOT, run_python, run_script

sys.path.insert(0, str(ROOT / "examples" / "heat_exchangers"))

import generate  # noqa: E402  (after the change of sys.path)
import physics  # noqa: E402

SHEETS = [generate.exchanger(random.Random(seed)) for seed in range(200)]


def profile(hot_in, cold_in, hot_rate, cold_rate, ua, steps=20_000):
    """Integrate a counter-current exchanger along its area, from the hot inlet. -> outlet temperatures, mean difference

    The cold outlet, which the integration begins with, is found by bisection.
    """
    def cold_inlet(cold_out):
        hot, cold, sum_of_differences = hot_in, cold_out, 0.0
        for _ in range(steps):
            middle_hot = hot - ua / steps / 2 * (hot - cold) / hot_rate         # midpoint rule
            middle_cold = cold - ua / steps / 2 * (hot - cold) / cold_rate
            heat = ua / steps * (middle_hot - middle_cold)
            hot, cold = hot - heat / hot_rate, cold - heat / cold_rate
            sum_of_differences += middle_hot - middle_cold
        return cold, hot, sum_of_differences / steps

    low, high = cold_in, hot_in
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if cold_inlet(middle)[0] < cold_in else (low, middle)
    _, hot_out, mean = cold_inlet(low)
    return hot_out, low, mean


@pytest.mark.parametrize("hot_rate, cold_rate, ua", [(10, 25, 12), (30, 12, 20), (15, 15, 15)])
def test_effectiveness_and_mean_difference_are_those_of_an_integration_along_the_area(hot_rate, cold_rate, ua):
    hot_out, cold_out, mean = profile(150, 20, hot_rate, cold_rate, ua, steps=400)
    heat = hot_rate * (150 - hot_out)
    assert heat == pytest.approx(cold_rate * (cold_out - 20), rel=1e-6)         # what one side gives the other takes
    smaller, larger = sorted((hot_rate, cold_rate))
    assert physics.effectiveness(ua / smaller, smaller / larger) * smaller * 130 == pytest.approx(heat, rel=1e-4)
    assert physics.log_mean(150 - cold_out, hot_out - 20) == pytest.approx(mean, rel=1e-4)
    assert physics.area(heat, 1000, 1, mean) == pytest.approx(ua, rel=1e-4)     # U of 1 kW/m2K: the area is U A


def test_the_correction_factor_is_that_of_a_shell_with_two_tube_passes():
    """Integrate the shell stream against both tube passes at once: a linear system of differential equations."""
    hot_rate, cold_rate, ua, length = 20.0, 30.0, 18.0, 1.0
    # d/dx of the hot stream, the first tube pass (with it) and the second (against it), each with half of the area.
    share = ua / 2
    rates = np.array([[-2 * share, share, share], [share, -share, 0], [-share, 0, share]])
    rates = rates / np.array([[hot_rate], [cold_rate], [cold_rate]])
    values, vectors = np.linalg.eig(rates)
    across = (vectors @ np.diag(np.exp(values * length)) @ np.linalg.inv(vectors)).real
    # Hot and first pass are known at x = 0; the second pass begins, at x = 1, where the first one ends.
    hot_in, cold_in = 120.0, 25.0
    first, second = across[1] - across[2], np.array([hot_in, cold_in, 0])
    cold_out = -(first[:2] @ second[:2]) / first[2]
    hot_out = across[0] @ np.array([hot_in, cold_in, cold_out])
    heat = hot_rate * (hot_in - hot_out)
    assert heat == pytest.approx(cold_rate * (cold_out - cold_in), rel=1e-9)
    factor = physics.correction(hot_in, hot_out, cold_in, cold_out)
    mean = physics.log_mean(hot_in - cold_out, hot_out - cold_in)
    assert factor * mean * ua == pytest.approx(heat, rel=1e-9)


def test_the_mean_difference_lies_between_the_geometric_and_the_arithmetic_mean():
    for first, second in [(10, 90), (50, 49.999), (30, 30), (5, 5.1)]:
        mean = physics.log_mean(first, second)
        assert math.sqrt(first * second) <= mean * (1 + 1e-9) and mean <= (first + second) / 2 * (1 + 1e-9)


def test_temperatures_that_cross_have_no_correction_factor():
    with pytest.raises(ValueError):
        physics.correction(100, 40, 20, 90)


@pytest.mark.parametrize("value, unit, wanted, right", [
    (100, "°C", "K", 373.15), (212, "°F", "°C", 100), (1, "bar", "psi", 14.5038), (1000, "kW", "MBtu/h", 3.41214),
    (10, "kg/s", "t/h", 36), (100, "m2", "ft2", 1076.39), (1000, "W/m2K", "Btu/hft2F", 176.110)])
def test_units_are_converted_as_in_the_tables(value, unit, wanted, right):
    assert physics.convert(value, unit, wanted) == pytest.approx(right, rel=2e-5)


def test_there_and_back_is_the_same_value():
    for unit, wanted in physics.CONVERSIONS:
        if (wanted, unit) in physics.CONVERSIONS:
            assert physics.convert(physics.convert(123, unit, wanted), wanted, unit) == pytest.approx(123)


def test_fouling_begins_at_nothing_and_ends_at_its_final_resistance():
    assert physics.fouling_after(0, 0.3, 50) == 0
    assert physics.fouling_after(50, 0.3, 50) == pytest.approx(0.3 * (1 - 1 / math.e))
    assert physics.fouled(1000, 0.5) == pytest.approx(1000 / 1.5)


@pytest.mark.parametrize("sheet", SHEETS[:50], ids=lambda sheet: sheet["tag"])
def test_every_field_of_a_sheet_agrees_with_the_others(sheet):
    fields = {name: float(content.split()[0]) for name, content in sheet.items() if content[0].isdigit()}
    hot, cold = ((fields[f"{side} flow"] * fields[f"{side} cp"], fields[f"{side} in"], fields[f"{side} out"])
                 for side in ("hot", "cold"))
    given, taken = hot[0] * (hot[1] - hot[2]), cold[0] * (cold[2] - cold[1])
    assert fields["duty"] == pytest.approx(given, rel=0.006)            # three digits: half of one in a hundred
    assert taken == pytest.approx(given, rel=0.02)                      # temperatures have one decimal
    assert fields["U"] == pytest.approx(1 / (1 / fields["clean U"] + fields["fouling"] / 1000), rel=0.006)
    assert 1000 * fields["duty"] == pytest.approx(fields["U"] * fields["F"] * fields["LMTD"] * fields["area"], rel=0.006)
