"""The fast inner loops of tokenizer.py and Model.py: arrays in, arrays out."""
