"""Rows for people to label: the page, its server, and the rows."""
