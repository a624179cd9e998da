"""The agents' networks and the mixers."""
