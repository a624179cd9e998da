"""Run files to tables and pictures. Nothing here reads a model."""
