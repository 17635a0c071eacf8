"""Parameters to networks, and the calls that every network answers."""
