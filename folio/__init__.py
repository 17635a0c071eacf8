"""Folio: a language model of your own text, trained from scratch on the machine you have."""


def __getattr__(name):
    """`folio.load` arrives when first asked for, so that importing folio never pays for torch."""
    if name == "load":
        from folio.language_model import load
        return load
    raise AttributeError(f"module 'folio' has no attribute {name!r}")


def _begin():
    """What `python -m folio.NAME` lacks is said before that module is looked for; until then Python calls itself -m."""
    import sys
    if getattr(sys, "argv", [])[:1] == ["-m"]:
        from folio.startup import require_for_module
        require_for_module()


_begin()
