"""One HTML file about runs: what they learned, and how. It holds its own style, program and data, and asks no network.

The sections are in folio.pictures.report_sections; style and program are folio/web/report.css and report.js, with those
files of the writing page that both use.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from folio.base.visible import harmless
from folio.pictures import report_sections as sections
from folio.pictures.html import Html, data_element, element, hashed, joined, raw_element

WEB = Path(__file__).resolve().parent.parent / "web"
STYLES = ("page.css", "server.css", "report.css")
SCRIPTS = ("curves.js", "report.js")
MARK = '<meta name="generator" content="Folio, a report on runs">'          # says that a file is one of ours
MOST_REPORTS = 1500             # more cannot be told apart in a picture
MOST_SAMPLES = 200              # of a log: places of a slider on a telephone
SCORE = "val_nats_per_byte"
# What the page's curves show of a log; the first two are the axes that one may choose.
CURVES = ("step", "seconds", SCORE, "train_eval_nats_per_byte", "train_nats_per_byte",
          "tokens_per_second", "learning_rate")


@dataclass(frozen=True)
class Piece:
    """A part of a text with its cost, and what the model expected in its place."""
    text: str
    bits: float
    expected: list = field(default_factory=list)        # [(text, probability)], the likeliest first


@dataclass(frozen=True)
class Script:
    """How much of the vocabulary and of the text is of one script."""
    name: str
    vocabulary: int             # tokens of the vocabulary
    tokens: int                 # tokens of the text; 0 where no text was counted
    bytes: int                  # bytes in these tokens


@dataclass
class RunReport:
    """All that a report says of one run."""
    run: Any                            # folio.formats.run_list.Run
    log: list                           # its reports, oldest first
    missing: dict = field(default_factory=dict)         # {section: why there is nothing to show}
    measured: dict = field(default_factory=dict)        # figures on the held-out text: {name: value}
    baselines: Any = None                               # folio.evaluation.baselines.Baselines
    quality: str | None = None                          # in plain words
    passage: list = field(default_factory=list)         # of Piece
    hardest: list = field(default_factory=list)         # of folio.evaluation.passages.Passage
    copying: Any = None                                 # folio.evaluation.copying.Copying
    written: list = field(default_factory=list)         # texts that the finished model wrote
    scripts: list = field(default_factory=list)         # of Script
    notes: list = field(default_factory=list)           # sentences

    @property
    def name(self):
        return self.run.name


def report_page(reports, *, helps, made) -> str:
    """Return the HTML of a report on one or several runs.

    reports: of RunReport; helps: {setting: what it means}; made: a sentence on when and where this was measured
    """
    style, script = ("\n".join((WEB / name).read_text(encoding="utf-8") for name in names)
                     for names in (STYLES, SCRIPTS))
    policy = (f"default-src 'none'; style-src {hashed(style)}; script-src {hashed(script)}; img-src data:; "
              "base-uri 'none'; form-action 'none'")
    title = ", ".join(report.name for report in reports)
    head = element("head", element("meta", charset="utf-8"), Html(MARK),
                   element("meta", http_equiv="Content-Security-Policy", content=policy),
                   element("meta", name="viewport", content="width=device-width, initial-scale=1"),
                   element("meta", name="color-scheme", content="light dark"),
                   element("title", f"{title}: report"), raw_element("style", style))
    body = element("body", sections.top(reports), element("main", *sections.all_of(reports, helps), class_="report"),
                   sections.bottom(made), data_element("data", data_of(reports)), raw_element("script", script))
    return joined(Html("<!DOCTYPE html>\n"), element("html", head, body, lang="en"), Html("\n"))


# --- What the program of the page shows ---

def data_of(reports):
    """Return what report.js draws, as plain values."""
    return {"runs": [{"name": harmless(report.name), "color": sections.color_of(number),
                      "curves": curves_of(report.log),
                      "samples": samples_of(report),
                      "pieces": [[round(piece.bits, 2), [[harmless(text), round(likely, 4)]
                                                         for text, likely in piece.expected]]
                                 for piece in report.passage]}
                     for number, report in enumerate(reports)]}


def samples_of(report):
    """Return [[step, text]] of the samples that the log of a run has; of too many some are left out."""
    return thinned([[line["step"], harmless(line["sample"])] for line in report.log
                    if isinstance(line.get("sample"), str)], MOST_SAMPLES)


def curves_of(log):
    """Return {field: [value of each report, or None]} of a log; of too many reports some are left out."""
    evaluated = [line for line in log if SCORE in line or "val_bpb" in line]
    kept = {line["step"]: line for line in thinned(log, MOST_REPORTS) + thinned(evaluated, MOST_REPORTS)}
    lines = [_with_nats(kept[step]) for step in sorted(kept)]
    return {name: [_number(line.get(name)) for line in lines] for name in CURVES}


def thinned(values, most):
    """Return about `most` values of a list, evenly spread, with the first and the last.
    >>> thinned(list(range(8)), 4)
    [0, 2, 4, 6, 7]
    """
    every = max(1, math.ceil(len(values) / most))
    return [value for number, value in enumerate(values) if number % every == 0 or number == len(values) - 1]


def _with_nats(line):
    """Return a report with its validation loss in nats per byte; older runs have it in bits alone."""
    if SCORE in line or _number(line.get("val_bpb")) is None:
        return line
    return line | {SCORE: math.log(2) * line["val_bpb"]}


def _number(value):
    """Return a value if it is a finite number, in six digits; else None."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
    return float(f"{value:.6g}") if is_number and isinstance(value, float) else value if is_number else None
