"""The fraction and the course."""
