"""The targets; one folder per target."""
