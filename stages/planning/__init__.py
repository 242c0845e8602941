"""What a run would do and cost, before it runs. No stage of the DAG imports it."""
