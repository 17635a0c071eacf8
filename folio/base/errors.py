"""The error for what a user can cause, and how to recognize that memory has run out."""


class FolioError(ValueError):
    """What a user can cause. Its text is one message: what happened, what was found, and what to do next.

    The scripts print the message without a traceback. Any other exception but an OSError is a bug in Folio, and its
    traceback is shown.
    """


# What libraries say where there is not enough memory; oneDNN says no more than what it could not do (near a limit in 4
# runs of 8).
_OUT_OF_MEMORY = ("allocate memory", "out of memory", "defaultcpuallocator", "bad_alloc",
                  "could not create a primitive", "could not execute a primitive")


def is_out_of_memory(error):
    """Return whether an exception says that there is not enough memory.

    Python has a class for it, and so has torch on a GPU. On a CPU and on MPS torch raises a RuntimeError that says
    so in words.
    """
    text = str(error).lower()
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and any(phrase in text for phrase in _OUT_OF_MEMORY))


def failure(error):
    """Return what went wrong with an answer, in a sentence for whom it was written."""
    if isinstance(error, FolioError):
        return str(error)
    if is_out_of_memory(error):
        return "There was not enough memory for this answer."
    return f"The engine failed at this answer ({type(error).__name__}); its log says more."
