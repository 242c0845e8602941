"""The embedded default: a micro world with ground truth, and the base model that is pre-trained on it.

The loop (review … dpo) never calls anything in here. The world makes the base model's corpus, the seed set and the
benchmark's held-out problems, and afterwards measures what the loop did (`stages/measure.py`).
"""
