"""Two images of one patient in one place: registered, inverted, and what they show."""
