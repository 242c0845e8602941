"""Model folders: what they are, how they converse, and where they come from."""
