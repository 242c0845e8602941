"""Model folders: where they come from, their chat format, LoRA adapters, and the hash of their content."""
