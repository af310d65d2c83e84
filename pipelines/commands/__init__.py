"""What the command line can do, one file a subject; each is a function that answers with its exit code."""
