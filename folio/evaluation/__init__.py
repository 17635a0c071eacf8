"""How well a model predicts a text, and how much it copies."""
