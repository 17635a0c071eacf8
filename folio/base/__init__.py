"""What every package stands on; it knows nothing of language models."""
