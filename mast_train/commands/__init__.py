"""What a person starts: training, evaluating, playing, listing, checking the installation."""
