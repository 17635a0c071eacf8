"""Default quality on six unlike texts, beside the yardsticks of each: character models of order 2 to 5, bzip2 and xz.

    python benchmarks/six_texts.py                      # about twenty minutes: three minutes of training a text
    python benchmarks/six_texts.py --minutes 0.5 --only logs rows
    python benchmarks/six_texts.py --foreign FILE       # a text of yours in another script

The texts are what every machine has: the plays, Python's standard library, generated logs and rows, the plays letter
for letter in Cyrillic (two bytes a letter; not a language, but a text of one), and 20 kB of the plays. Each is prepared
by init.py, trained by train.py and measured by folio.evaluate, all with their defaults, on the text that is held out.
"""

import argparse
import json
import random
import subprocess
import sys
import sysconfig
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLAYS = ROOT / "Train_Data" / "input.txt"
TEXT_BYTES = 1_000_000
YARDSTICKS = ("order-5 model", "xz")        # which the model should be below
CYRILLIC = str.maketrans("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
                         "абцдефгхийклмнопярстувшжызАБЦДЕФГХИЙКЛМНОПЯРСТУВШЖЫЗ")


# --- Texts: each function returns one, always the same ---

def plays():
    """Return ten plays, 0.5 MB."""
    return PLAYS.read_text(encoding="utf-8")


def source_code():
    """Return the first megabyte of the modules of Python's standard library, in alphabetical order."""
    parts, size = [], 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        if size >= TEXT_BYTES:
            break
        parts.append(path.read_text(encoding="utf-8"))
        size += len(parts[-1])
    return "\n".join(parts)[:TEXT_BYTES]


def logs():
    """Return a megabyte of a web server's log."""
    chance, moment = random.Random(1), datetime(2024, 3, 1)
    hosts = [".".join(str(chance.randrange(1, 255)) for _ in range(4)) for _ in range(200)]
    pages = [f"/{chance.choice(['shop', 'news', 'api/v1', 'static'])}/{chance.choice(['item', 'list', 'img'])}/{number}"
             for number in range(300)]
    agents = ["Mozilla/5.0 (X11; Linux x86_64)", "Mozilla/5.0 (Windows NT 10.0; Win64)", "curl/8.5.0", "Googlebot/2.1"]

    def line():
        nonlocal moment
        moment += timedelta(seconds=int(chance.expovariate(0.5)))
        status = chance.choices([200, 304, 404, 500], [80, 12, 6, 2])[0]
        size = 0 if status == 304 else int(chance.lognormvariate(8, 1.5))
        return (f'{chance.choice(hosts)} - - [{moment:%d/%b/%Y:%H:%M:%S} +0000] "GET {chance.choice(pages)} HTTP/1.1" '
                f'{status} {size} "{chance.choice(agents)}"\n')
    return _lines(line)


def rows():
    """Return a megabyte of a table of heat pumps as CSV, one column of which follows from two others."""
    chance, number = random.Random(2), 0
    makers, places = ["Nordwarm", "Aerotherm", "Heliox", "Kelda", "Brannock"], ["roof", "cellar", "garden", "garage"]

    def line():
        nonlocal number
        number += 1
        duty, ratio = chance.randrange(30, 320) / 10, chance.randrange(25, 52) / 10
        return (f"HP-{number:05d},{chance.choice(makers)},{duty:.1f},{ratio:.1f},{duty / ratio:.2f},"
                f"{chance.choice(places)},{chance.choice(['R290', 'R32', 'R744'])},{chance.choice(['yes', 'no'])}\n")
    return "tag,maker,duty_kw,cop,input_kw,place,refrigerant,in_service\n" + _lines(line)


def cyrillic():
    """Return the plays, letter for letter in Cyrillic."""
    return plays().translate(CYRILLIC)


def little():
    """Return 20 kB of the plays."""
    return plays()[:20_000]


def _lines(line):
    parts, size = [], 0
    while size < TEXT_BYTES:
        parts.append(line())
        size += len(parts[-1])
    return "".join(parts)


# Name -> (file name, function).
TEXTS = {"plays": ("plays.txt", plays), "code": ("code.txt", source_code), "logs": ("server.log", logs),
         "rows": ("pumps.csv", rows), "cyrillic": ("cyrillic.txt", cyrillic), "20 kB": ("little.txt", little)}


# --- Measuring ---

def run(*words):
    """Run a script or module of the repository. -> its output"""
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, encoding="utf-8")
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def measured(path, home, minutes):
    """Return what folio.evaluate reports on a model of a text. path: of the text"""
    run("init.py", path, "--home", home)
    run("train.py", "--home", home, "--minutes", minutes, "--sample-tokens", 0)
    return json.loads(run("-m", "folio.evaluate", "--home", home, "--samples", 0, "--json"))


def row(name, report):
    """Return the cells of a text's row."""
    bits = {baseline["name"]: baseline["bits_per_byte"] for baseline in report["baselines"]["measured"]}
    is_below = all(report["bits_per_byte"] < bits[yardstick] for yardstick in YARDSTICKS)
    figures = [report["bits_per_byte"], *bits.values()]
    return [name, f"{report['baselines']['val_bytes']:,}", *(f"{figure:.3f}" for figure in figures),
            "yes" if is_below else "NO"], report["quality"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=3.0, help="of training a text (default: 3, train.py's own)")
    parser.add_argument("--only", nargs="+", choices=TEXTS, default=list(TEXTS), metavar="TEXT",
                        help=f"some of: {', '.join(TEXTS)}")
    parser.add_argument("--foreign", type=Path, metavar="FILE", help="in place of the Cyrillic plays")
    arguments = parser.parse_args()
    heading = ["text", "held out", "model", "order-2", "order-3", "order-4", "order-5", "bzip2", "xz", "below both"]
    print(f"bits per byte after {arguments.minutes:g} minutes of train.py; below both: order-5 and xz\n")
    print("| " + " | ".join(heading) + " |\n|" + " --- |" * len(heading))
    below, words = 0, []
    for name in arguments.only:
        with tempfile.TemporaryDirectory() as folder:
            file_name, make = TEXTS[name]
            path = Path(folder) / file_name
            path.write_text(make(), encoding="utf-8", newline="\n")
            if name == "cyrillic" and arguments.foreign:
                path = arguments.foreign.resolve()
            cells, quality = row(name, measured(path, Path(folder) / "home", arguments.minutes))
        print("| " + " | ".join(cells) + " |", flush=True)
        below += cells[-1] == "yes"
        words.append(f"{name}: {quality}")
    print(f"\nbelow both on {below} of {len(arguments.only)}\n" + "\n".join(words))


if __name__ == "__main__":
    main()
