"""What a user may ask for: the settings, the table of methods, and what is said when they do not fit."""
