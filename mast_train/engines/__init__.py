"""Where networks run: torch, C, a CUDA graph. An engine knows no learner."""
