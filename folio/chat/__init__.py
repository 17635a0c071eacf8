"""Conversations: their messages, and what a model that was taught to chat reads and writes of them."""
