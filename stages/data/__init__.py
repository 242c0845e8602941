"""Rows of text: where seeds come from, how alike texts are, and where a row came from."""
