"""A batch run over an inbox: what is to be done, doing it, and what came of it."""
