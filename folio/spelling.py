"""A misspelt word to the nearest right one."""

import difflib


def nearest(word, known):
    """A hint to put behind a word that is not known: "; did you mean --emb-len?", or nothing where none is like it."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else ""
