"""No functions that check responses: the default of `review.checks`."""
