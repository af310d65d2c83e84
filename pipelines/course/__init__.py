"""A patient's course from the records of its fractions."""
