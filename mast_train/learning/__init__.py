"""A learner, and one gradient step of one or several: targets, losses, FLOPs."""
