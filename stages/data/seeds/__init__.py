"""Seed files in any common format and layout, as pairs of prompt and response."""
