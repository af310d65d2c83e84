"""Planning structures mapped to a fraction's image."""
