"""One image contoured from a template."""
