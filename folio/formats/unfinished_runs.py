"""Which unfinished runs need a tokenizer."""

from contextlib import suppress

from folio.base.errors import FolioError


def runs_needing(home, tokenizer):
    """Return the names of the unfinished runs that can only be resumed with this tokenizer, newest first.

    A file that cannot be read counts for nothing.
    """
    names = []
    for path in home.newest("resume-*.pth"):
        from folio.formats import checkpoint  # imports torch, which most calls do not have to wait for
        with suppress(OSError, FolioError, KeyError, TypeError):
            contents = checkpoint.load_metadata(path)
            if contents["tokenizer"] == tokenizer.fingerprint and not contents["progress"]["finished"]:
                names.append(path.stem.removeprefix("resume-"))
    return names
