"""Words: a misspelt one to the nearest right one, one or many."""


def nearest(word, known):
    """Return a hint to put behind an unknown word: "; did you mean --emb-len?", or nothing where no known one is spelled alike.

    Alike is what at most three mistakes explain, and no more than three in ten letters; else a word whose beginning this is.
    """
    spelled = {name: _plain(name) for name in known}
    word = _plain(word)
    if len(word) < 3:
        return ""
    most = min(3, max(1, int(0.3 * len(word))))
    # Lengths alone rule most out: a folder may have a hundred thousand names.
    mistakes = {name: _mistakes(word, letters) for name, letters in spelled.items() if abs(len(word) - len(letters)) <= most}
    found = min((name for name in mistakes if mistakes[name] <= most), key=mistakes.get, default=None)
    found = found or min((name for name, letters in spelled.items() if letters.startswith(word)), key=len, default=None)
    return f"; did you mean {found}?" if found else ""


def _plain(word):
    return word.lower().lstrip("-/").replace("_", "-")


def _mistakes(word, right):
    """Count the letters missing, added, changed, or exchanged with their neighbor, at least (Damerau, 1964)."""
    before, row = [], list(range(len(right) + 1))
    for i, letter in enumerate(word, 1):
        last, before, row = before, row, [i]
        for j, wanted in enumerate(right, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (letter != wanted)))
            if i > 1 and j > 1 and letter == right[j - 2] and word[i - 2] == wanted:
                row[-1] = min(row[-1], last[j - 2] + 1)
    return row[-1]


def counted(number, noun, plural=None):
    """Return a number with its noun, in the singular or the plural; a number that is rounded for display comes as text.
    >>> counted(1, "pass", "passes"), counted(2000, "line"), counted("1", "hour"), counted("0.5", "epoch")
    ('1 pass', '2,000 lines', '1 hour', '0.5 epochs')
    """
    shown = number if isinstance(number, str) else f"{number:,}"
    return f"{shown} {noun if shown == '1' else plural or noun + 's'}"
