"""A policy as C source: tables and loops of its matrices, the fixed text around them, building and running it."""
