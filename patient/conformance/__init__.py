"""May this file be imported: checks, and what treatment planning systems ask, as data."""
