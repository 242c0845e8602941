"""lm-eval's hook `process_results`. No prompt of this suite needs nltk's sentence tokenizer."""

from stages.core.ifeval import checkers, process_results

__all__ = ["process_results"]

checkers()  # a package that is missing shows before anything is evaluated
