"""What all stages share, one module per concern."""
