"""Generation with transformers: a small decode loop of our own around the model's forward pass.

`model.generate` samples the whole batch from one random stream, so a completion would depend on its neighbours. Here
every draw has its own stream. The loop prefills a prompt once for all its draws, drops finished rows from the batch and
fills their places with waiting requests. Start reading at engine.py.
"""

from stages.inference.engines.transformers.engine import TransformersEngine

__all__ = ["TransformersEngine"]
