"""How well a model predicts a text, and how much of it the model copies."""
