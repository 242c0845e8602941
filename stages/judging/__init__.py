"""The judge: its reviews, and the scores that are read from them."""
