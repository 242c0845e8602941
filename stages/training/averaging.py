"""The average of an iteration's model with its parent's, `average` in params.yaml (WARP, arXiv 2406.16768).

    θ  ←  (1 − average) · θ  +  average · θ_parent

of every weight, computed in 32 bits and rounded to the model's type. Of adapters it would not be one: the mean of two
updates B·A of rank r has rank 2r, and the mean of their factors is another update. So `check` refuses `average` with
`training.lora`.
"""

from pathlib import Path


def average(model: Path, parent: Path, share: float) -> None:
    """Keep `share` of the parent's weights in the model folder `model`, in place: the same files, and where the two
    models agree, the same weights. It holds one file's weights at a time, and of the parent's one tensor."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    files: dict[str, Path] = {}
    for path in parent.glob("*.safetensors"):
        with safe_open(path, "pt") as weights:
            files |= dict.fromkeys(weights.keys(), path)
    for path in sorted(model.glob("*.safetensors")):
        weights = load_file(path)
        for name, weight in weights.items():
            with safe_open(files[name], "pt") as others:
                other = others.get_tensor(name)
            weights[name] = torch.lerp(weight.float(), other.float(), share).to(weight.dtype)
        averaged = path.with_suffix(".averaged")
        save_file(weights, averaged, metadata={"format": "pt"})
        averaged.replace(path)
