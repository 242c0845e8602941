"""What `python -m stages.commands.plan` knows of a run before it runs: what changed, what is stored, and
what the rest costs.

No stage of the DAG imports it.
"""
