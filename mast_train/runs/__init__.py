"""A run: its state, its folder and checkpoint, and the loop that trains one or several."""
