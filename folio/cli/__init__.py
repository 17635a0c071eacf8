"""Flags and settings in, terminal text out; never imports torch."""
