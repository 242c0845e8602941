"""What people type, beside dvc: a module for each command."""
