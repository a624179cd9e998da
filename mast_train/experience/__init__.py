"""Whole episodes: played, stored, drawn as batches."""
