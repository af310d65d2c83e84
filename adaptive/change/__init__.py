"""What differs from the plan, as measurements."""
