"""Policies trained elsewhere, fc -> GRU -> fc, as bundles: read, pruned, compared with the original, written."""
