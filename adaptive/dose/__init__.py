"""Dose of one fraction and of several, and dose in a structure."""
