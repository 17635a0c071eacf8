"""Write data sheets, operating logs and questions about heat exchangers, to train on and to measure with.

    python examples/heat_exchangers/generate.py FOLDER
    python examples/heat_exchangers/generate.py FOLDER --exchangers 200 --answers short --seed 7

FOLDER gets sheets.txt (documents: data sheets, operating logs, worked examples, exercises) and questions.jsonl
(questions and answers on some of the same exchangers) to learn from; and to measure with, on exchangers that are in
neither, fields.jsonl (questions for fields of a sheet) and formulas.jsonl (questions for what one formula gives).
"""

import argparse
import json
import math
import random
from pathlib import Path

import physics

FLUIDS = {          # specific heat in kJ/kg K and film coefficient in W/m2 K: the usual ranges
    "water": ((4.17, 4.23), (2000, 6000)), "sea water": ((3.95, 4.05), (2000, 5000)),
    "lube oil": ((1.80, 2.20), (200, 600)), "crude oil": ((1.90, 2.40), (300, 900)),
    "glycol": ((3.20, 3.70), (800, 2500)), "toluene": ((1.65, 1.90), (700, 1800)),
    "ethanol": ((2.40, 2.80), (800, 2000)), "brine": ((3.30, 3.70), (1500, 4000)),
}
SERVICES = ("cooler", "preheater", "recuperator", "heater", "interchanger")
HELD_OUT = 100      # exchangers to measure with
SEPARATOR = "<|endoftext|>"


def number(value, digits=3):
    """Write a value with so many significant digits, and no exponent.

    >>> number(1574.2), number(0.09294), number(99.96)
    ('1570', '0.0929', '100')
    """
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    return f"{rounded:.{max(0, digits - 1 - math.floor(math.log10(abs(rounded))))}f}"


def exchanger(rng):
    """Return the fields of a data sheet: {name: (number as written, unit)}. Each follows from those before it."""
    while True:
        (hot, (hot_cp, hot_film)), (cold, (cold_cp, cold_film)) = rng.sample(list(FLUIDS.items()), 2)
        hot_flow, cold_flow = (float(number(math.exp(rng.uniform(math.log(2), math.log(80))))) for _ in range(2))
        hot_cp, cold_cp = (float(number(rng.uniform(*limits))) for limits in (hot_cp, cold_cp))
        cold_in, hot_in = round(rng.uniform(5, 60), 1), round(rng.uniform(60, 200), 1)
        hot_rate, cold_rate = hot_flow * hot_cp, cold_flow * cold_cp
        share = physics.effectiveness(rng.uniform(0.4, 2.5), min(hot_rate, cold_rate) / max(hot_rate, cold_rate))
        heat = share * min(hot_rate, cold_rate) * (hot_in - cold_in)
        hot_out, cold_out = round(hot_in - heat / hot_rate, 1), round(cold_in + heat / cold_rate, 1)
        ends = hot_in - cold_out, hot_out - cold_in
        if min(*ends, hot_in - hot_out, cold_out - cold_in) < 5:
            continue
        try:
            factor = physics.correction(hot_in, hot_out, cold_in, cold_out)
        except ValueError:                  # these temperatures cross: one shell pass cannot do it
            continue
        if factor < 0.75:                   # which no designer accepts either
            continue
        factor = round(factor, 2)
        break
    heat = float(number(physics.duty(hot_flow, hot_cp, hot_in - hot_out)))
    mean = float(number(physics.log_mean(*ends)))
    films = [math.exp(rng.uniform(*map(math.log, limits))) for limits in (hot_film, cold_film)]
    clean = float(number(1 / sum(1 / film for film in films)))
    resistance = float(number(math.exp(rng.uniform(math.log(0.1), math.log(0.9))), 2))
    service = float(number(physics.fouled(clean, resistance)))
    surface = physics.area(heat, service, factor, mean)
    return {"tag": f"{rng.choice('EHX')}-{rng.randrange(100, 10000)}", "service": f"{hot} {rng.choice(SERVICES)}",
            "hot side": hot, "cold side": cold} | {
        name: f"{value} {unit}".strip() for name, value, unit in [
            ("hot flow", number(hot_flow), "kg/s"), ("hot cp", number(hot_cp), "kJ/kgK"),
            ("hot in", f"{hot_in:.1f}", "°C"), ("hot out", f"{hot_out:.1f}", "°C"),
            ("cold flow", number(cold_flow), "kg/s"), ("cold cp", number(cold_cp), "kJ/kgK"),
            ("cold in", f"{cold_in:.1f}", "°C"), ("cold out", f"{cold_out:.1f}", "°C"),
            ("duty", number(heat), "kW"), ("LMTD", number(mean), "K"), ("F", f"{factor:.2f}", ""),
            ("clean U", number(clean), "W/m2K"), ("fouling", number(resistance, 2), "m2K/kW"),
            ("U", number(service), "W/m2K"), ("area", number(surface), "m2")]}


def value(sheet, name):
    """Return the number in a field of a sheet."""
    return float(sheet[name].split()[0])


def sheet_text(sheet):
    """Return a data sheet as it is written."""
    return "".join(f"{name}: {content}\n" for name, content in sheet.items())


def log_text(sheet, rng, days=5):
    """Return an operating log: readings with noise, and the fouling that grows between them."""
    rows, final, time_constant = [], value(sheet, "fouling") * rng.uniform(0.8, 2), rng.uniform(30, 200)
    hot_rate, cold_rate = (value(sheet, f"{side} flow") * value(sheet, f"{side} cp") for side in ("hot", "cold"))
    smaller, larger = sorted((hot_rate, cold_rate))
    for day in sorted(rng.sample(range(1, 400), days)):
        u = physics.fouled(value(sheet, "clean U"), physics.fouling_after(day, final, time_constant))
        # F belongs to the design point; here it stands for the whole range.
        ntu = u * value(sheet, "F") * value(sheet, "area") / 1000 / smaller
        hot_in, cold_in = value(sheet, "hot in") + rng.gauss(0, 1), value(sheet, "cold in") + rng.gauss(0, 1)
        heat = physics.effectiveness(ntu, smaller / larger) * smaller * (hot_in - cold_in)
        readings = [reading + rng.gauss(0, 0.1) for reading in
                    (hot_in, hot_in - heat / hot_rate, cold_in, cold_in + heat / cold_rate)]
        rows.append(f"day {day}: " + ", ".join(f"{reading:.1f}" for reading in readings)
                    + f" °C, {number(heat * rng.gauss(1, 0.01))} kW\n")
    return f"log of {sheet['tag']}: hot in, hot out, cold in, cold out, duty\n" + "".join(rows)


# --- Questions. Each function returns (question, answer with {} for its result, exact result, calculation). ---

def backwards(value):
    """Write an integer with four digits, the last one first: a carry then comes from digits that are there already.

    >>> backwards(654), backwards(10_034)
    ('4560', '4300')
    """
    return f"{value % 10_000:04d}"[::-1]


def tenths(value):
    """Return a temperature in tenths of a degree."""
    return round(10 * float(value))


class Worked:
    """A calculation on paper, as with a table of logarithms: products become sums, which a small model can learn.

    Logarithms are in thousandths and temperatures in tenths, both with four digits, the last one first. Logarithms
    leave out tens, as printed tables do: 9.444 is the one of 0.278. Each step names its operands anew, so that whatever
    it needs stands right before it; they are the last results.

    >>> work = Worked()
    >>> work.product("4.19", ("60.1", 1))
    '252'
    >>> work.lines
    ['lg4.19=2260', 'lg60.1=9771', '2260+9771=1042', '10^1042=252']
    """

    def __init__(self):
        self.lines = []
        self.result = None          # as written

    def plus(self, first, second, sign=1):
        """Add or subtract two numbers, without tens of thousands."""
        result = (first + sign * second) % 10_000
        self.lines.append(f"{backwards(first)}{'+' if sign > 0 else '-'}{backwards(second)}={backwards(result)}")
        return result

    def temperature(self, first, second, sign=-1):
        """Add or subtract temperatures in tenths. Return the result in degrees, with a decimal."""
        self.result = f"{self.plus(first, second, sign) / 10:.1f}"
        return self.result

    def lg(self, written):
        """Look up a decimal logarithm of a number as written; of one such as 123.4, the decimal does not count."""
        written = written[:3] if len(written) == 5 and written[3] == "." else written
        result = round(1000 * math.log10(float(written))) % 10_000
        self.lines.append(f"lg{written}={backwards(result)}")
        return result

    def lg_mean(self, ratio):
        """Look up the logarithm of the logarithmic mean of a number and one, from the logarithm of that number."""
        exponent = (ratio + 5000) % 10_000 - 5000
        result = round(1000 * math.log10(physics.log_mean(10 ** (exponent / 1000), 1))) % 10_000
        self.lines.append(f"lm{backwards(ratio)}={backwards(result)}")
        return result

    def power(self, logarithm):
        """Look up the number of a logarithm, from 0.001 to 10,000,000."""
        self.result = number(10 ** ((logarithm + 3000) % 10_000 / 1000 - 3))
        self.lines.append(f"10^{backwards(logarithm)}={self.result}")
        return self.result

    def product(self, first, *factors):
        """Return a product. factors: (number as written, 1 to multiply or -1 to divide)"""
        total = self.lg(first)
        for factor, sign in factors:
            total = self.plus(total, self.lg(factor), sign)
        return self.power(total)

    def mean(self, first, second):
        """Return the logarithmic mean of two numbers as written."""
        larger, smaller = self.lg(first), self.lg(second)
        return self.power(self.plus(smaller, self.lg_mean(self.plus(larger, smaller, -1))))


def copied(sheet, rng):
    """Ask for fields of a sheet, of which a part is shown."""
    chosen = rng.sample(list(sheet)[1:], 8)
    shown = [name for name in sheet if name in chosen]
    names = rng.sample(shown, 3)
    lines = [f"{name}: {sheet[name]}" for name in ["tag", *shown]]
    answer = "\n".join(f"{name}: {sheet[name]}" for name in names)
    return "\n".join(lines) + f"\nGive {', '.join(names)}.", answer, None, Worked()


# The median and the spread of values in units that sheets do not have.
TYPICAL = {"K": (350, 0.08), "°F": (200, 0.2), "bar": (10, 0.5), "psi": (100, 0.5), "t/h": (50, 0.8), "ft2": (500, 0.8)}


def converted(sheet, rng):
    """Ask for a value of a sheet, or a usual one, in another unit."""
    (unit, wanted), (factor, offset) = rng.choice(list(physics.CONVERSIONS.items()))
    given = [content.split()[0] for content in sheet.values() if content.endswith(f" {unit}") and unit != "K"]
    decimals = number if unit not in ("K", "°F") else "{:.1f}".format
    lowest = {"K": 280, "°F": 50}.get(unit, 0)          # whose results are not near zero
    given = rng.choice(given) if given else decimals(
        max(lowest, TYPICAL[unit][0] * rng.lognormvariate(0, TYPICAL[unit][1])))
    work, result = Worked(), physics.convert(float(given), unit, wanted)
    if unit == "°C" and factor != 1:
        work.product(work.temperature(tenths(given), tenths(offset / factor), 1), (number(factor), 1))
    elif unit == "°F":
        work.product(work.temperature(tenths(given), tenths(-offset / factor)), (number(1 / factor), -1))
    elif offset:
        work.temperature(tenths(given), tenths(abs(offset)), 1 if offset > 0 else -1)
    else:
        work.product(given, (number(factor), 1))
    written = f"{result:.1f}" if offset else number(result)
    return f"Convert {given} {unit} to {wanted}.", f"result: {{}} {wanted}", written, work


def duty_asked(sheet, rng):
    """Ask for the duty of a stream."""
    side, work = rng.choice(("hot", "cold")), Worked()
    flow, cp, first, last = (sheet[f"{side} {name}"] for name in ("flow", "cp", "in", "out"))
    warm, cool = sorted((value(sheet, f"{side} in"), value(sheet, f"{side} out")), reverse=True)
    difference = work.temperature(tenths(warm), tenths(cool))
    work.product(difference, (flow.split()[0], 1), (cp.split()[0], 1))
    exact = physics.duty(value(sheet, f"{side} flow"), value(sheet, f"{side} cp"), warm - cool)
    return f"Duty of {flow}, {cp}, {first} to {last}?", "duty: {} kW", number(exact), work


def mean_asked(sheet, rng):
    """Ask for the LMTD."""
    hot_in, hot_out, cold_in, cold_out = (value(sheet, name) for name in ("hot in", "hot out", "cold in", "cold out"))
    work = Worked()
    work.mean(work.temperature(tenths(hot_in), tenths(cold_out)), work.temperature(tenths(hot_out), tenths(cold_in)))
    question = f"LMTD of {hot_in:.1f} to {hot_out:.1f}, {cold_in:.1f} to {cold_out:.1f} °C?"
    return question, "LMTD: {} K", number(physics.log_mean(hot_in - cold_out, hot_out - cold_in)), work


def area_asked(sheet, rng):
    """Ask for the area of a duty."""
    heat, u, factor, mean = (sheet[name].split()[0] for name in ("duty", "U", "F", "LMTD"))
    work = Worked()
    work.product(f"{heat}e3", (u, -1), (factor, -1), (mean, -1))
    question = f"Area for {sheet['duty']}, U {sheet['U']}, F {sheet['F']}, LMTD {sheet['LMTD']}?"
    return question, "area: {} m2", number(physics.area(*map(float, (heat, u, factor, mean)))), work


def looked_up(rng):
    """Ask for three entries of the tables."""
    work, asked = Worked(), []
    for table in rng.choices((work.lg_mean, work.power, work.lg), (3, 2, 1), k=3):
        if table == work.lg:
            key = number(10 ** rng.uniform(-2, 5))
        elif table == work.power:
            key = round(rng.uniform(-2000, 5000))
        else:
            key = round(rng.gauss(0, 400))
        table(key)
        asked.append(work.lines[-1].split("=")[0])
    work.result = work.lines[-1].split("=")[1]
    return f"{', '.join(asked)}?", "result: {}", work.result, work


def exercise(_, rng):
    """Ask for a part of the calculations above, of numbers that have nothing to do with a sheet."""
    kind, sign, work = rng.choice(EXERCISES), rng.choice((1, -1)), Worked()
    if kind == "tables":
        return looked_up(rng)
    if kind == "mean":
        first, second = (number(10 ** rng.uniform(0.7, 2.3)) for _ in range(2))
        work.mean(first, second)
        return f"Mean of {first}, {second}?", "result: {}", number(physics.log_mean(float(first), float(second))), work
    if kind == "product":
        first, second = (number(10 ** rng.uniform(*rng.choice([(-2, 5), (0.3, 2.5)]))) for _ in range(2))
        exact = float(first) * float(second) ** sign
        if 0.002 < exact < 5e6:
            work.product(first, (second, sign))
        else:
            work.result = backwards(work.plus(work.lg(first), work.lg(second), sign))
        return f"{first}{'*' if sign > 0 else '/'}{second}?", "result: {}", number(exact), work
    warm, cool = sorted((rng.randrange(50, 2000) for _ in range(2)), reverse=True)
    exact = work.temperature(warm, cool, sign)
    asked = f"{warm / 10:.1f}{'+' if sign > 0 else '-'}{cool / 10:.1f}"
    if kind == "sum" or exact == "0.0":
        return f"{asked}?", "result: {}", exact, work
    work.result = backwards(work.lg(exact))
    return f"lg({asked})?", "result: {}", work.result, work


KINDS = {"copied": copied, "converted": converted, "duty": duty_asked, "LMTD": mean_asked, "area": area_asked}
# Of each exchanger come so many exercises. Tables have more to learn than sums have.
EXERCISES, EXERCISES_EACH = ("product", "product", "product", "tables", "tables", "mean", "sum", "lg of a sum"), 5


def question(kind, sheet, rng, steps):
    """Return a question as {"kind", "question", "answer"}; with steps, the answer is what they lead to."""
    asked, answer, exact, work = (KINDS | {"exercise": exercise})[kind](sheet, rng)
    answer = answer.format((work.result if steps else None) or exact)
    return {"kind": kind, "question": asked, "answer": "\n".join([*(work.lines if steps else []), answer])}


def write_texts(path, sheets, kinds, rng, steps):
    """Write the documents to learn from: sheets, logs and questions of these kinds."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for sheet in sheets:
            pairs = [question(kind, sheet, rng, steps) for kind in kinds]
            asked = [f"Q: {pair['question']}\nA: {pair['answer']}\n" for pair in pairs]
            kept = [sheet_text(sheet)] if rng.random() < 0.2 else []
            kept += [log_text(sheet, rng)] if rng.random() < 0.05 else []
            for text in [*kept, *asked]:
                file.write(f"{text}{SEPARATOR}\n")


def write_questions(path, kinds, sheets, rng, steps):
    """Write a question of each of these kinds on each sheet, as JSON lines."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for sheet in sheets:
            for kind in kinds:
                file.write(json.dumps(question(kind, sheet, rng, steps), ensure_ascii=False) + "\n")


def main():
    """Parse the command line and write the three files."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--exchangers", type=int, default=30_000, help="to learn from (default: %(default)s)")
    parser.add_argument("--answers", choices=("steps", "short"), default="steps",
                        help="with the steps of the calculation, or the result alone (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rng, steps = random.Random(arguments.seed), arguments.answers == "steps"
    held = [exchanger(rng) for _ in range(HELD_OUT)]
    known = {sheet["tag"] for sheet in held}
    sheets = [sheet for sheet in (exchanger(rng) for _ in range(arguments.exchangers)) if sheet["tag"] not in known]
    learned = [*KINDS, "copied", *(["exercise"] * EXERCISES_EACH if steps else [])]
    write_texts(arguments.folder / "sheets.txt", sheets, learned, rng, steps)
    write_questions(arguments.folder / "questions.jsonl", learned, sheets, rng, steps)
    write_questions(arguments.folder / "fields.jsonl", ["copied"], held, rng, steps=False)
    write_questions(arguments.folder / "formulas.jsonl", [kind for kind in KINDS if kind != "copied"], held, rng,
                    steps=False)


if __name__ == "__main__":
    main()
