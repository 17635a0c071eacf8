"""A manuscript of some thousand words, and its files in every format that is read."""

import random
import re
import subprocess
import textwrap
from difflib import SequenceMatcher

WORD = re.compile(r"[^\W_]+(?:[’-][^\W_]+)*")

_VOCABULARY = """der Fluß über Wälder Straße naïve café the river wandered quietly don’t it’s well-known house lantern
    Ægir œuvre façade señor Łódź Dvořák žlutý 1848 314 twenty-one evening letters window schönes größer Mädchen
    harbour fishermen sailed towards distant islands whispering ancient melodies beneath silver moonlight""".split()
_FORMS = ["{}", "{}", "{}", "{}", "{}", "{}", "*{}*", "**{}**", "“{}”", "‘{}’", "({})", "{},", "{}…", "„{}“"]


def manuscript(paragraphs=60):
    """Return (Markdown, words): headings, emphasis, quotes, notes, lists, a table. The words of notes come last."""
    chance = random.Random(7)
    parts, words, notes, definitions = [], [], [], []

    def sentence(length):
        chosen = [chance.choice(_VOCABULARY) for _ in range(length)]
        words.extend(chosen)
        return " ".join(chance.choice(_FORMS).format(word) for word in chosen)

    for number in range(paragraphs):
        if number % 10 == 0:
            parts.append("# " + sentence(4))
        if number % 20 == 5:
            parts.append("\n".join(f"- {sentence(6)}" for _ in range(4)))
        if number % 20 == 15:
            rows = [" | ".join(sentence(1) for _ in range(3)) for _ in range(4)]
            parts.append("\n".join([f"| {rows[0]} |", "|---|---|---|", *(f"| {row} |" for row in rows[1:])]))
        text = f"{sentence(60)}."
        if number % 6 == 2:
            note = " ".join(chance.choice(_VOCABULARY) for _ in range(9))
            notes.append(note)
            text += f"[^{number}]"
            definitions.append(f"[^{number}]: {note}.")
        if number % 15 == 4:
            text = "> " + text
        parts.append(text)
    return "\n\n".join(parts + definitions) + "\n", words + " ".join(notes).split()


def write(folder, suffix, markdown):
    """Write the manuscript as a file of this suffix, with pandoc or reportlab. -> path"""
    path = folder / f"manuscript{suffix}"
    if suffix == ".md":
        path.write_text(markdown, encoding="utf-8")
    elif suffix == ".pdf":
        _write_pdf(path, _converted(markdown, "plain", "--wrap=none").decode("utf-8"))
    else:
        form = {".htm": "html", ".txt": "plain"}.get(suffix, suffix[1:])
        path.write_bytes(_converted(markdown, form, "--standalone", "--metadata=pagetitle:Title"))
    return path


def _converted(markdown, form, *options):
    import pypandoc
    return subprocess.run([pypandoc.get_pandoc_path(), "--from=markdown", f"--to={form}", "--output=-", *options],
                          input=markdown.encode("utf-8"), capture_output=True, check=True).stdout


def _write_pdf(path, text):
    """Write a text in the lines of a page, as a word processor prints it."""
    import matplotlib  # which brings a font with all of these letters
    from reportlab.pdfbase import pdfmetrics, ttfonts
    from reportlab.pdfgen import canvas
    font = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSerif.ttf"
    pdfmetrics.registerFont(ttfonts.TTFont("serif", font))
    page = canvas.Canvas(str(path))
    lines = [line for paragraph in text.split("\n")
             for line in textwrap.wrap(paragraph, 70, break_on_hyphens=False) or [""]]
    for start in range(0, len(lines), 45):
        page.setFont("serif", 10)
        for number, line in enumerate(lines[start:start + 45]):
            page.drawString(60, 780 - 16 * number, line)
        page.showPage()
    page.save()


def equal_words(found, words):
    """Return the fraction of words that a text has in common with the original's, in the same order.

    Numbers of notes are no words of the manuscript; neither are those of list items.
    """
    text = re.sub(r"\[\^?\d+\]:?|(?<=[.,…])\d+\b|[↩︎]", " ", found)
    found = WORD.findall(re.sub(r"(?m)^\d+\. ", "", text))
    expected = [word for part in words for word in WORD.findall(part)]
    same = sum(block.size for block in SequenceMatcher(None, expected, found, autojunk=False).get_matching_blocks())
    return same / max(len(expected), len(found))
