"""Campaigns: thousands of kills, damaged and hostile files and random inputs, each drawn from a seed.

    python -m pytest tests/campaigns -m campaign                        # all of it, on all cores; prints "tried N, fell M" for each
    python -m pytest tests/campaigns -m campaign --campaign-scale 0.1   # a tenth
    python -m pytest tests/campaigns -m campaign --campaign-seed 7 -k damages
    python -m pytest tests/campaigns -m campaign -k "damages and weights" --campaign-seed 7 --campaign-case 123     # a single case again

A small sample of each, with a fixed seed, is part of the usual tests.
"""
