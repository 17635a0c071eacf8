"""Pictures: each takes plain values and arrays and hands out a figure; `python -m folio.plot` draws them."""
