"""The embedded default: a small world with ground truth, and the model that is pre-trained on it.

Nothing in here is ever called inside the loop (review … dpo): the world builds the base model's corpus, the seed set
and the held-out tasks, and afterwards measures what the loop did (`stages/measure.py`).
"""
