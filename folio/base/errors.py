"""The errors that a user can cause, and what an error looks like when the memory has run out."""


class FolioError(ValueError):
    """What a user can cause: its text is one message that says what happened, what was found, and what to do next.

    The scripts print that message alone. Any other exception but an OSError is a mistake of ours, and shows where it happened.
    """


# What libraries say where there is not enough memory; oneDNN says no more than what it could not do (near a limit in 4 runs of 8).
_OUT_OF_MEMORY = ("allocate memory", "out of memory", "defaultcpuallocator", "bad_alloc", "could not create a primitive", "could not execute a primitive")


def is_out_of_memory(error):
    """Whether an exception says that there is not enough memory.

    Python has a class for it and so has torch on a GPU; on a CPU torch raises a RuntimeError, and so does MPS, that says so in words.
    """
    words = str(error).lower()
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and any(known in words for known in _OUT_OF_MEMORY))
