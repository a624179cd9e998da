"""Many runs from one file: which, where, and how far they are."""
