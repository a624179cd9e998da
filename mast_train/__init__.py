"""Sparse multi-agent Q-learning in PyTorch: environments, networks, targets, topology evolution."""
