"""What is shown of the first conversation before training."""

import re

from folio.cli.example import MOST_LINES, headline, lines_of

PIECES = [("<|im_start|>", False), ("user", False), ("\n", False), ("How?", False), ("<|im_end|>", False),
          ("Three", True), (".", True), ("<|im_end|>", True), ("\n", False)]


def test_without_colors_marks_stand_around_what_is_learned():
    assert lines_of(PIECES, 80, False) == ["  <|im_start|>·user·↵", "  ·How?·<|im_end|>·[[Three·.·<|im_end|>]]·↵"]
    assert lines_of(PIECES[:-1], 80, False)[-1].endswith("<|im_end|>]]")
    assert "between [[ and ]]" in headline(False) and "green" in headline(True)


def test_with_colors_what_is_learned_is_green_and_nothing_else():
    green = "".join(re.findall(r"\x1b\[32m(.*?)\x1b\[0m", "".join(lines_of(PIECES, 80, True))))
    assert green.replace("·", "") == "Three.<|im_end|>"
    plain = [re.sub(r"\x1b\[\d+m", "", line) for line in lines_of(PIECES, 80, True)]
    assert plain == [line.replace("[[", "").replace("]]", "") for line in lines_of(PIECES, 80, False)]


def test_long_examples_are_cut_and_nothing_in_them_commands_the_terminal():
    lines = lines_of([("word \x1b[31m", True)] * 500, 40, False)
    assert len(lines) == MOST_LINES and lines[-1].strip() == "..."
    assert all(len(line) <= 40 and "\x1b" not in line for line in lines)
