"""What is in one image."""
