"""Files of every kind to text."""
