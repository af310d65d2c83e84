"""Pages and pictures that people read in the morning."""
