"""Policies out of training: from a run's checkpoint to verified files (mast_export.export)."""
