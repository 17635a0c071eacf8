"""Parameters and a corpus to trained weights."""
