"""Any text to windows of tokens for training."""
