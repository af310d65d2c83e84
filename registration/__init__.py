"""Where two images agree."""
