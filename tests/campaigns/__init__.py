"""Campaigns: thousands of kills, damaged and hostile files and random inputs, each drawn from a seed.

    python -m pytest tests/campaigns -m campaign                            # all of it, on all cores
    python -m pytest tests/campaigns -m campaign --campaign-scale 0.1       # a tenth
    python -m pytest tests/campaigns -m campaign --campaign-seed 7 -k damage
    python -m pytest tests/campaigns -m campaign --campaign-seed 7 -k "damage and weights" --campaign-case 123

Each says "tried N, fell M" at the end, and where some fell, which, and how to make the first of them again.

A small sample of each, with a fixed seed, is part of the usual tests.
"""
