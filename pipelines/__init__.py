"""The night: command line, ledger, scheduling, gate, reports."""
