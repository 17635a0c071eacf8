"""The errors that a user can cause, and what an error looks like when the memory has run out."""


class FolioError(ValueError):
    """What a user can cause: its text is one message that says what happened, what was found, and what to do next.

    The scripts print that message alone. Any other exception but an OSError is a mistake of ours, and shows where it happened.
    """


def is_out_of_memory(error):
    """Whether an exception says that there is not enough memory.

    Python has a class for it and so has torch on a GPU; on a CPU torch raises a RuntimeError, and so does MPS, that says so in words.
    """
    words = str(error).lower()
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "allocate memory" in words or "out of memory" in words
