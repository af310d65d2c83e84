"""The outbox: its job database, and how outputs get into it."""
