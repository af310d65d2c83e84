"""What a site's policy asks for, and the verdict that follows from measurements."""
