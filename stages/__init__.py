"""The nodes of the DAG, one module per stage of dvc.yaml; `python -m stages.NAME` runs one by hand.

A stage prints its own progress bars and a closing line (core/progress.py), so the progress bars and warnings of the
libraries are switched off here, before any of them is imported.
"""

import os
import warnings

for _name, _value in {
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_OFFLINE": "1",  # a stage never waits for the network
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "LMEVAL_LOG_LEVEL": "ERROR",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}.items():
    os.environ.setdefault(_name, _value)
if not os.environ.get("PYTHONWARNINGS"):
    warnings.filterwarnings("ignore")
