"""`lance benchmark`: a module for each group of parts, and the command that prints their table."""
