"""What the stages share, a module per concern."""
