"""A small real trained model with real data."""
