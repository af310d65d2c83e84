"""A model from a clinic's archive."""
