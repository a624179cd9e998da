"""What computes the passes of an update."""
