"""A game of StarCraft II for tests: see binary.py."""
