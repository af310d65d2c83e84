"""The sample patient, and the code that makes it."""
