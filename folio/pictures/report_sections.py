"""The sections of a report on runs, as HTML. Where a section has nothing to show, it says why."""

from folio.base.spelling import counted
from folio.base.visible import on_one_line
from folio.pictures.html import Html, element, joined

COLORS = ("run-one", "run-two", "run-three", "run-four", "run-five", "run-six")        # classes of report.css
MAX_RUNS = len(COLORS)
# Bits from which a piece is painted, in levels, as folio/web/surprise.js has them: 1 chance in 4, 16, 128 and 1,024.
SURPRISE_LEVELS = (2, 4, 7, 10)
NATS = 1.4426950408889634           # bits in a nat
# How far a model's copies may be above those of held-out text, on average and at most, before that is called copying.
# The included model's texts from eight seeds were between 1.06 and 1.11 times, and between 1.0 and 1.24 times.
MEAN_COPY, LONGEST_COPY = 1.25, 2
SHOWN_TEXTS = 3                     # of those that the finished model wrote, without samples in the log


def color_of(number):
    """Return the class of a run's color, from its place among the runs."""
    return COLORS[number % MAX_RUNS]


# --- The whole ---

def top(reports):
    """Return the line above everything."""
    names = [name_of(report, number) if len(reports) > 1 else report.name for number, report in enumerate(reports)]
    about = "a run" if len(reports) == 1 else counted(len(reports), "run")
    theme = element("button", Html("&#9680;"), element("span", "Dark or light", class_="hidden"), type="button",
                    id="theme", title="Dark or light")
    return element("header", element("h1", *_between(names, " "), class_="name"),
                   element("p", f"Report on {about}", class_="facts"), element("div", theme, class_="tools"),
                   class_="report-top")


def _between(parts, separator):
    """Return parts with a separator between two of them."""
    return [each for part in parts for each in (separator, part)][1:]


def all_of(reports, helps):
    """Yield the sections of a report."""
    yield summary(reports)
    yield yardsticks(reports)
    yield curves(reports)
    yield samples(reports)
    yield surprise(reports)
    yield hardest(reports)
    yield copying(reports)
    yield scripts(reports)
    yield settings(reports, helps)


def bottom(made):
    """Return the line below everything."""
    return element("footer", element("p", made), class_="report-bottom")


def section(id, title, lead, *content):
    """Return a section with a heading and a sentence that says what it shows."""
    heading = element("h2", title, id=f"{id}-title")
    return element("section", heading, element("p", lead, class_="lead"), *content, id=id, class_="part",
                   aria_labelledby=f"{id}-title")


def name_of(report, number):
    """Return the name of a run in its color."""
    return element("span", report.name, class_=f"run-tag {color_of(number)}")


def measured_section(id, title, lead, reports, make, key=""):
    """Return a section with what `make` returns for each report, side by side.

    Where a report has nothing for it, its place has the reason; where none has, that is all there is in the section.
    make: RunReport, its number -> Html; key: legend above all, Html
    """
    if all(id in report.missing for report in reports):
        return section(id, title, " ".join(dict.fromkeys(report.missing[id] for report in reports)))
    cards = []
    for number, report in enumerate(reports):
        heading = element("h3", name_of(report, number)) if len(reports) > 1 else None
        content = element("p", report.missing[id], class_="missing") if id in report.missing else make(report, number)
        cards.append(element("div", heading, content, class_="column"))
    return section(id, title, lead, key, element("div", *cards, class_="columns" if len(reports) > 1 else None))


def table(head, *bodies, class_=None, numbers=()):
    """Return a table that scrolls sideways where the window is narrow.

    bodies: lists of rows; numbers: indices of columns of figures
    """
    def cells(kind, row):
        return [element(kind, cell, class_="number" if place in numbers else None,
                        scope="col" if kind == "th" else None) for place, cell in enumerate(row)]
    return scrolling(element("table", element("thead", element("tr", *cells("th", head))),
                             *(element("tbody", *(element("tr", *cells("td", row)) for row in rows))
                               for rows in bodies if rows), class_=class_), head[0])


def scrolling(content, label):
    """Return what may be wider than the window, in a part of its own that scrolls. label: for screen readers"""
    return element("div", content, class_="scroll", tabindex=0, role="group", aria_label=label)


# --- What came out ---

def summary(reports):
    """Return the main figures; for several runs in a table with what differed between them."""
    if len(reports) > 1:
        facts = [facts_of(report) | {"in plain words": report.quality or ""} for report in reports]
        rows = [(name, *(each[name] for each in facts)) for name in facts[0] if any(each[name] for each in facts)]
        differ = [(element("code", flag(name)), *(shown_value(report.run.settings.get(name)) for report in reports))
                  for name in differing(reports)]
        heads = [name_of(report, number) for number, report in enumerate(reports)]
        figures = table(["Run", *heads], rows, differ, class_="compared", numbers=range(1, len(reports) + 1))
        lead = "The figures of each run" + (", and below them the settings in which they differ." if differ else ".")
    else:
        report, facts = reports[0], facts_of(reports[0])
        shown = [element("div", element("dt", name), element("dd", value)) for name, value in facts.items() if value]
        figures = element("dl", *shown, class_="figures")
        lead = headline(report)
    notes = [element("p", f"{report.name}: {note}" if len(reports) > 1 else note, class_="missing")
             for report in reports for note in [*report.run.problems, *report.notes]]
    return section("summary", "What came out", lead, figures, *notes)


STATES = {"running": "This run is being trained now.", "unfinished": "This run was stopped before its end.",
          "finished": "This run is finished.", "imported": "This model was imported: another program trained it.",
          "weights only": "Only the weights of this run are left.", "log only": "Only the log of this run is left.",
          "damaged": "The files of this run are damaged."}


def headline(report):
    """Return sentences on the state and the quality of a run."""
    run = report.run
    quality = "" if run.bits_per_byte is None else (
        f" Each byte of held-out text costs it {run.bits_per_byte:.2f} bits, where plain storage takes 8.")
    words = f" In plain words: {report.quality}." if report.quality else ""
    resume = f" To continue: {run.go_on}" if run.go_on else ""
    return f"{STATES[run.state]}{quality}{words}{resume}"


def facts_of(report):
    """Return {name: value} of what a run reached, all texts; "" for what is not known."""
    run, measured = report.run, report.measured
    settings = run.settings
    planned = f" of {run.planned_steps:,}" if run.planned_steps and run.state in ("running", "unfinished") else ""
    computed = [str(settings[name]) for name in ("device", "precision") if settings.get(name) is not None]
    if settings.get("threads"):
        computed.append(counted(settings["threads"], "thread"))
    now = f"{measured['bits_per_byte']:.3f}" if measured else ""
    if now and run.bits_per_byte and abs(measured["bits_per_byte"] / run.bits_per_byte - 1) < 0.005:
        now = ""                        # the text is the one that training measured, in another precision perhaps
    return {"bits per byte": "" if run.bits_per_byte is None else f"{run.bits_per_byte:.3f}",
            "nats per byte": "" if run.nats_per_byte is None else f"{run.nats_per_byte:.3f}",
            "bits per byte of the text now": now,
            "next token guessed right": f"{100 * measured['accuracy']:.1f} %" if measured else "",
            "parameters": "" if run.parameters is None else f"{run.parameters:,}",
            "steps": "" if not run.steps or run.state == "imported" else f"{run.steps:,}{planned}",
            "time": time_of(run.minutes), "tokens per second": rounded(run.tokens_per_second),
            "trained on": "" if run.state == "imported" else ", ".join(computed),
            "text": run.text.get("name") or (f"{rounded(run.text['train_bytes'])} bytes"
                                             if run.text.get("train_bytes") else ""),
            "started from": (run.started_from or {}).get("name", ""), "state": run.state,
            "last change": (run.changed or "")[:16].replace("T", " ")}


def time_of(minutes):
    """Return a time in words.
    >>> time_of(1.52), time_of(190), time_of(0.1)
    ('1.5 minutes', '3.2 hours', '6 seconds')
    """
    if not minutes:
        return ""
    if minutes < 1:
        return counted(f"{60 * minutes:.0f}", "second")
    return counted(f"{minutes / 60:.1f}", "hour") if minutes >= 120 else counted(f"{minutes:.1f}", "minute")


def rounded(number):
    """Return a number in three digits.
    >>> rounded(9416.3), rounded(52_435_000), rounded(None)
    ('9,420', '52,400,000', '')
    """
    return "" if not number else f"{float(f'{number:.3g}'):,.0f}" if number >= 100 else f"{number:.3g}"


def yardsticks(reports):
    """Return what simple methods reach on the held-out text, beside the model."""
    lead = ("How many bits each byte of the held-out text costs the model, and how many it costs simple methods that "
            "know only the training text. An order-n model counts which character follows the last n. A ratio below "
            "1: the model is better.")
    most = max((cost for report in reports if report.baselines for _, cost, _ in _costs(report)), default=1)
    return measured_section("yardsticks", "Yardsticks", lead, reports,
                            lambda report, number: _yardsticks(report, number, most))


def _costs(report):
    """Return (name, bits per byte, ratio) of the model and of each yardstick."""
    bits = report.measured["bits_per_byte"]
    return [("the model", bits, None), *report.baselines.ratios(bits)]


def _yardsticks(report, number, most):
    baselines = report.baselines
    rows = [(*costs, "quiet" if place else color_of(number)) for place, costs in enumerate(_costs(report))]
    lines = [element("tr", element("th", name, scope="row"), element("td", bar(cost / most, color), class_="wide"),
                     *(element("td", figure, class_="number")
                       for figure in (f"{cost:.3f}", None if ratio is None else f"{ratio:.2f}")))
             for name, cost, ratio, color in rows]
    heads = element("tr", element("th", "Method", colspan=2, scope="col"),
                    *(element("th", head, class_="number", scope="col") for head in ("bits per byte", "ratio")))
    content = element("table", element("thead", heads), element("tbody", *lines), class_="bars yardsticks")
    extent = (f"Measured on {counted(baselines.val_bytes, 'byte')} of held-out text; the training text has "
              f"{counted(baselines.train_bytes, 'byte')}.")
    return joined(element("p", f"In plain words: {report.quality}.", class_="verdict"),
                  scrolling(content, "Yardsticks"),
                  element("p", " ".join(filter(None, [extent, baselines.limits])), class_="extent"))


# --- Curves, samples ---

def curves(reports):
    """Return the places of the curves, which the program of the page draws."""
    if not any("curves" not in report.missing for report in reports):
        return section("curves", "Learning", reports[0].missing["curves"])
    choice = element("div", _radio("axis", "step", "Steps", True), _radio("axis", "seconds", "Time"), class_="colors",
                     role="radiogroup", aria_label="Horizontal axis")
    parts = [element("div", element("h3", title), element("div", id=f"{name}-curves"), class_="run-part")
             for name, title in (("speed", "Tokens per second"), ("rate", "Learning rate"))]
    without = [element("p", f"{report.name}: {report.missing['curves']}", class_="missing") for report in reports
               if "curves" in report.missing]
    return section("curves", "Learning", "Loss in nats per byte: lower is better. The model is never trained on the "
                   "validation text: where the training loss falls and the validation loss rises, it overfits.",
                   element("div", element("p", class_="run-readout", id="readout"), choice, class_="curves-head"),
                   element("div", id="loss-curves"), element("div", *parts, class_="run-small"), *without)


def _radio(name, value, label, checked=False):
    return element("label", element("input", type="radio", name=name, value=value, checked=checked),
                   element("span", label))


def samples(reports):
    """Return the slider over the samples of the logs, or what the finished models wrote."""
    if any("samples" not in report.missing for report in reports):
        slider = element("input", type="range", min=0, value=0, id="slider", class_="run-slider",
                         aria_label="Sample after so many steps")
        figures = [element("figure", element("blockquote", dir="auto"), element("figcaption"),
                           class_=f"run-sample {color_of(number)}") for number in range(len(reports))]
        return section("samples", "What it wrote while it learned", "Samples from the log of the run. Move the slider, "
                       "or point at the curves above.", element("h3", id="sample-title"), slider,
                       element("div", *figures, class_="run-samples", id="sample-texts"))
    if not any(report.written for report in reports):
        return section("samples", "What it wrote while it learned", reports[0].missing["samples"])
    figures = [element("figure", element("blockquote", text, dir="auto"),
                       element("figcaption", report.name, ", from nothing"), class_=f"run-sample {color_of(number)}")
               for number, report in enumerate(reports) for text in report.written[:SHOWN_TEXTS]]
    return section("samples", "What it writes", f"{reports[0].missing['samples']} Here is what it writes now, from "
                   "nothing.", element("div", *figures, class_="run-samples"))


# --- Where the model is unsure ---

def surprise(reports):
    """Return a passage of held-out text, colored by its cost."""
    legend = element("p", "Surprise in bits: ", *(element("span", f"{bits}+", class_=f"surprise-{level}")
                                                 for level, bits in enumerate(SURPRISE_LEVELS, 1)), class_="key")
    lead = ("A typical passage of held-out text. The darker a piece, the less the model expected it; point at one, or "
            "use the arrow keys, to see what it expected instead.")
    return measured_section("surprise", "What surprises it", lead, reports, _passage, legend)


def _passage(report, number):
    spans = [element("span", _visible(piece.text), class_=level_class(piece.bits)) for piece in report.passage]
    figure = element("div", *spans, class_="passage", dir="auto", tabindex=0, role="group", data_run=number,
                     aria_label="Passage; the arrow keys go from piece to piece")
    bits = sum(piece.bits for piece in report.passage)
    size = sum(len(piece.text.encode("utf-8", errors="surrogateescape")) for piece in report.passage)
    average = f"Here {bits / max(1, size):.2f} bits per byte on average."
    return joined(element("p", average, class_="readout-line", data_readout=number, data_default=average,
                          aria_live="polite"), figure)


def level_class(bits):
    """Return the class of a piece by its surprise; None for one that is not painted."""
    level = sum(bits >= least for least in SURPRISE_LEVELS)
    return f"surprise-{level}" if level else None


def _visible(text, line_end="\n"):
    """Return a text with a mark at each line end, which would have no background otherwise.

    line_end: what follows the mark; a space keeps the text on one line.
    """
    *lines, rest = text.split("\n")
    return [*((line, element("i", "⏎"), line_end) for line in lines), rest]


def hardest(reports):
    """Return the passages that cost most."""
    lead = "The passages of the held-out text that cost most for each byte: where the model has most to learn."
    return measured_section("hardest", "Hardest passages", lead, reports, _hardest)


def _hardest(report, number):
    rows = []
    for passage in report.hardest:
        times = passage.nats_per_byte * NATS / max(1e-9, report.measured["bits_per_byte"])
        pieces = [element("span", _visible(text, " "), class_=level_class(nats * NATS))
                  for text, nats in passage.tokens]
        rows.append(element("li", element("blockquote", *pieces, dir="auto"),
                            element("p", element("b", f"{passage.nats_per_byte * NATS:.2f}"),
                                    f" bits per byte, {times:.1f} times the average", class_="cost")))
    return element("ol", *rows, class_="hardest")


def bar(share, color):
    """Return a bar as long as a share, from 0 to 1, of its room."""
    width = f"{100 * min(1, max(0, share)):.2f}%"
    rectangle = element("rect", class_=color, x=0, y=0, width=width, height="100%", rx=3)
    return element("svg", rectangle, class_="bar-of", aria_hidden="true")


# --- Copying ---

def copying(reports):
    """Return how much of what a model writes is in its training text."""
    lead = ("For each byte that it writes: how long is the longest stretch from there on that the training text has, "
            "too? Held-out text shares phrases with the training text, so it is the yardstick.")
    return measured_section("copying", "Does it copy?", lead, reports, _copying)


def _copying(report, number):
    found = report.copying
    most = max(found.written.longest, found.held_out.longest, 1)
    rows = []
    for title, matches, color in (("what it writes", found.written, color_of(number)),
                                  ("held-out text", found.held_out, "quiet")):
        rows += [(title, measure, bar(value / most, color), shown) for measure, value, shown in (
            ("on average", matches.mean, f"{matches.mean:.1f} bytes"),
            ("at most", matches.longest, f"{matches.longest:,} bytes"))]
    searched = None
    if found.searched_bytes < found.train_bytes:
        searched = element("p", f"Looked for in the first {found.searched_bytes:,} of {found.train_bytes:,} bytes of "
                           "the training text.", class_="missing")
    rows = [element("tr", element("th", title, " ", element("small", measure), scope="row"),
                    element("td", picture, class_="wide"), element("td", shown, class_="number"))
            for title, measure, picture, shown in rows]
    longest = element("q", on_one_line(found.written.stretch.strip(" ")), class_="quoted")
    return joined(element("p", copying_verdict(found), class_="verdict"),
                  element("table", element("tbody", *rows), class_="bars"),
                  element("p", "The longest copy: ", longest), searched)


def copying_verdict(found):
    """Return in a sentence whether a model copies. found: folio.evaluation.copying.Copying"""
    written, held_out = found.written, found.held_out
    if written.mean > MEAN_COPY * held_out.mean:
        return "It copies more than held-out text does."
    if written.longest > LONGEST_COPY * held_out.longest:
        return (f"On average it copies no more than held-out text does, but its longest copy has "
                f"{written.longest:,} bytes, and held-out text's {held_out.longest:,}.")
    return "It copies no more than held-out text does."


# --- Tokens ---

def scripts(reports):
    """Return the scripts of the vocabulary and of the text."""
    lead = "What the tokens of the vocabulary are made for, and what the tokens of the text are."
    return measured_section("scripts", "Tokens by script", lead, reports, _scripts)


def _scripts(report, number):
    vocabulary = sum(script.vocabulary for script in report.scripts) or 1
    tokens = sum(script.tokens for script in report.scripts)
    most = max(max(script.vocabulary / vocabulary, script.tokens / (tokens or 1)) for script in report.scripts)
    rows = []
    for script in report.scripts:
        shares = [(script.vocabulary / vocabulary, "quiet")]
        shares += [(script.tokens / tokens, color_of(number))] if tokens else []
        each = f"{script.bytes / script.tokens:.2f}" if script.tokens else ""
        rows.append([element("th", script.name, scope="row"),
                     *(element("td", bar(share / most, color), element("span", percent(share)), class_="barred")
                       for share, color in shares), element("td", each, class_="number") if tokens else None])
    heads = ["Script", "of the vocabulary", *(["of the text", "bytes each"] if tokens else [])]
    content = element("table", element("thead", element("tr", *(element("th", head, scope="col") for head in heads))),
                      element("tbody", *(element("tr", *row) for row in rows)), class_="bars scripts")
    without = report.missing.get("text scripts")
    return joined(scrolling(content, "Tokens by script"), without and element("p", without, class_="missing"))


def percent(share):
    """Return a share in percent; what is there is never 0.
    >>> percent(0), percent(0.00001), percent(0.254)
    ('–', '< 0.1 %', '25.4 %')
    """
    return "–" if not share else "< 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"


# --- Settings ---

def settings(reports, helps):
    """Return the settings that differ from the defaults, and all of them. helps: {setting: what it means}"""
    def own(report, number):
        rows = [(element("code", flag(name)), shown_value(value), helps.get(name, ""))
                for name, value in report.run.differs.items()]
        if not rows:
            return element("p", "All settings are the defaults.", class_="verdict")
        return table(["Setting", "Value", "Meaning"], rows, class_="settings")
    names = list(dict.fromkeys(name for report in reports for name in report.run.settings))
    every = [(element("code", flag(name)), *(shown_value(report.run.settings.get(name)) for report in reports),
              helps.get(name, "")) for name in names]
    heads = ["Setting", *(report.name if len(reports) > 1 else "Value" for report in reports), "Meaning"]
    more = element("details", element("summary", f"All {counted(len(names), 'setting')}"),
                   table(heads, every, class_="settings"))
    return joined(measured_section("settings", "Settings", "Those that are not the defaults.", reports, own),
                  element("div", more, class_="all-settings") if names else None)


def differing(reports):
    """Return the names of the settings in which runs differ, in their order."""
    names = dict.fromkeys(name for report in reports for name in report.run.settings)
    return [name for name in names
            if len({repr(report.run.settings.get(name)) for report in reports if report.run.settings}) > 1]


def flag(name):
    """Return a setting as its flag is named.
    >>> flag("emb_len")
    'emb-len'
    """
    return name.replace("_", "-")


def shown_value(value):
    """Return a value of a setting as text.
    >>> shown_value(True), shown_value(None), shown_value(0.0015), shown_value(20000)
    ('yes', '–', '0.0015', '20,000')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == () or value == []:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)
