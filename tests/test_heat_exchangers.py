"""examples/heat_exchangers: the physics against independent computations, and what the generator writes."""

import doctest
import json
import math
import random
import re
import sys

import numpy as np
import pytest

from conftest import ROOT, run_python

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
    (10, "kg/s", "t/h", 36), (100, "m2", "ft2", 1076.39), (1000, "W/m2K", "Btu/hft2F", 176.110),
    (2, "bar", "kPa", 200), (3000, "kW", "MW", 3)])
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
    needed = fields["U"] * fields["F"] * fields["LMTD"] * fields["area"]
    assert 1000 * fields["duty"] == pytest.approx(needed, rel=0.006)


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder that the generator writes for 60 exchangers."""
    folder = tmp_path_factory.mktemp("heat") / "exchangers"
    done = run_python(ROOT / "examples" / "heat_exchangers" / "generate.py", folder, "--exchangers", 60)
    assert done.returncode == 0, done.stderr
    return folder


def test_exchangers_to_measure_with_are_in_nothing_that_is_learned(written):
    learned = "".join((written / name).read_text(encoding="utf-8") for name in ("sheets.txt", "questions.jsonl"))
    held = read_lines(written / "fields.jsonl")
    tags = [re.match("tag: (.+)", pair["question"])[1] for pair in held]
    assert len(tags) == generate.HELD_OUT and not [tag for tag in tags if f" {tag}" in learned]
    asked = {pair["question"] for pair in read_lines(written / "questions.jsonl")}
    formulas = read_lines(written / "formulas.jsonl")
    same = [pair for pair in formulas if pair["question"] in asked]
    assert {pair["kind"] for pair in same} <= {"converted"}         # the same number may come twice


def test_the_seed_decides_everything(written, tmp_path):
    for name, seed in [("same", 1), ("other", 2)]:
        done = run_python(ROOT / "examples" / "heat_exchangers" / "generate.py", tmp_path / name, "--exchangers", 60,
                          "--seed", seed)
        assert done.returncode == 0, done.stderr
    for path in written.iterdir():
        assert (tmp_path / "same" / path.name).read_bytes() == path.read_bytes()
        assert (tmp_path / "other" / path.name).read_bytes() != path.read_bytes()


def test_every_field_that_is_asked_for_is_in_the_question(written):
    for pair in read_lines(written / "fields.jsonl"):
        assert set(pair["answer"].split("\n")) <= set(pair["question"].split("\n"))


def step_is_true(line):
    """Whether a step is right to the digits it has, computed anew with Python's own arithmetic."""
    left, right = line.split("=")
    if left.startswith("10^"):
        logarithm = int(left[:2:-1]) / 1000
        return float(right) == pytest.approx(10 ** (logarithm - (10 if logarithm >= 7 else 0)), rel=0.006)
    if left.startswith("lg"):
        value = 1000 * math.log10(float(left[2:]))
    elif left.startswith("lm"):
        ratio = int(left[:1:-1])
        ratio = 10 ** ((ratio - 10_000 if ratio >= 5000 else ratio) / 1000)
        value = 1000 * math.log10(1 if ratio == 1 else (ratio - 1) / math.log(ratio))
    else:
        first, sign, second = re.fullmatch(r"(\d{4})([-+])(\d{4})", left).groups()
        value = int(first[::-1]) + int(sign + second[::-1])
    return len(right) == 4 and abs((int(right[::-1]) - value + 5000) % 10_000 - 5000) <= 0.51


def test_every_worked_step_is_true_and_leads_to_the_result(written):
    kinds = set()
    for pair in read_lines(written / "questions.jsonl"):
        *steps, result = pair["answer"].split("\n")
        if pair["kind"] == "copied":
            continue
        assert steps and all(map(step_is_true, steps)), pair
        result, last = re.search(r": (\S+)", result)[1], steps[-1].split("=")[1]
        assert result == last or float(result) == int(last[::-1]) / 10, pair        # tenths of a degree
        kinds.add(pair["kind"])
    assert kinds == {"converted", "duty", "LMTD", "area", "exercise"}


def test_an_operand_is_of_the_question_or_the_result_of_a_step_above(written):
    for pair in read_lines(written / "questions.jsonl"):
        if pair["kind"] not in ("duty", "LMTD", "area"):
            continue
        known = {f"{round(10 * float(degrees)):04d}"[::-1] for degrees in re.findall(r"\d+\.\d", pair["question"])}
        for step in pair["answer"].split("\n")[:-1]:
            left, right = step.split("=")
            assert set(re.findall(r"\b\d{4}\b", left.replace("lm", "").replace("10^", ""))) <= known, pair
            known.add(right)


@pytest.mark.parametrize("kind", ["converted", "duty", "LMTD", "area"])
def test_what_steps_lead_to_is_close_to_the_exact_result(kind):
    for seed, sheet in enumerate(SHEETS):
        worked, exact = (generate.question(kind, sheet, random.Random(seed), steps)["answer"].split(": ")[-1].split()
                         for steps in (True, False))
        assert worked[1] == exact[1] and float(worked[0]) == pytest.approx(float(exact[0]), rel=0.013)


def test_the_mean_of_near_numbers_is_as_exact_as_any_other():
    for first, second in [("50.0", "50.0"), ("50.1", "50.0"), ("49.0", "50.0")]:
        work = generate.Worked()
        assert float(work.mean(first, second)) == pytest.approx((float(first) + float(second)) / 2, rel=0.004)
        assert all(map(step_is_true, work.lines))


def test_a_false_step_would_be_seen():
    assert step_is_true("0230+6550=6780") and not step_is_true("0230+6550=7780")
    assert not step_is_true("lg3.00=8740") and not step_is_true("10^7740=3.10") and not step_is_true("lm0420=7210")
    assert step_is_true("1042-2042=9999") and step_is_true("lg0.278=4449")           # without tens


def test_an_operating_log_is_the_sheet_with_noise_and_fouling():
    for sheet in SHEETS[:20]:
        rows = re.findall(r"day (\d+): (.+), (.+), (.+), (.+) °C, (.+) kW", generate.log_text(sheet, random.Random(5)))
        assert len(rows) == 5 and [int(row[0]) for row in rows] == sorted(int(row[0]) for row in rows)
        for row in np.array(rows, float):
            _, hot_in, hot_out, cold_in, cold_out, heat = row
            assert abs(hot_in - generate.value(sheet, "hot in")) < 5 and cold_out > cold_in and hot_out < hot_in
            given = generate.value(sheet, "hot flow") * generate.value(sheet, "hot cp") * (hot_in - hot_out)
            assert heat == pytest.approx(given, rel=0.2)                # readings of 0.1 K, of differences from 5 K on


@pytest.mark.parametrize("module", [physics, generate])
def test_the_examples_in_the_docstrings_are_true(module):
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


def test_numbers_have_three_significant_digits():
    assert [generate.number(value) for value in (0.09294, 99.96, 1574.2, 0, 12)] == ["0.0929", "100", "1570", "0",
                                                                                     "12.0"]


def test_the_whole_case_runs_as_one_command(tmp_path):
    done = run_python(ROOT / "examples" / "heat_exchangers" / "case.py", tmp_path / "case", "--size", "tiny",
                      "--minutes", 0.05, "--exchangers", 40)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "case" / "Saved_Weights" / "weights-answers.pth").exists()
    measured = re.findall(r"^(100|400) pairs .*\n(weights-answers\.pth|answers\.pth) +([\d.]+) %", done.stdout, re.M)
    assert [row[0] for row in measured] == ["100", "400"], done.stdout
    for name, questions in [("fields", 100), ("formulas", 400)]:
        assert len((tmp_path / "case" / f"{name}.csv").read_text(encoding="utf-8").split("\n")) > questions


def test_a_step_that_fails_ends_the_case(tmp_path):
    done = run_python(ROOT / "examples" / "heat_exchangers" / "case.py", tmp_path / "case", "--size", "tiny",
                      "--exchangers", 0)
    assert done.returncode != 0 and "folio.evaluate" not in done.stdout
