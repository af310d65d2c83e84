"""A patient's fractions in order: trends, forecasts and what counts."""
