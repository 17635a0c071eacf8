"""Figures from plain values and arrays; `python -m folio.plot` draws them."""
