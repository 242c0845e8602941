"""How a task says that its answers are generated: lm-eval's `generation_kwargs`."""

from typing import Any

from stages.core.errors import UserError

NUMBERS = {"temperature", "top_p", "top_k"}  # settings of a sampler that both engines know


def settings_of(generation_kwargs: dict[str, Any]) -> dict[str, Any]:
    """lm-eval's reading of `generation_kwargs`, which both of its engines follow: a temperature samples, unless
    do_sample is false."""
    from lm_eval.models.utils import normalize_gen_kwargs

    return dict(normalize_gen_kwargs(generation_kwargs))


def check_sampling(generation_kwargs: dict[str, Any]) -> None:
    """Raise `UserError` if settings of a task that samples contradict each other, or are not known to both engines."""
    for name in NUMBERS & generation_kwargs.keys():
        if not isinstance(generation_kwargs[name], int | float):
            raise UserError(f"generation_kwargs: {name} is {generation_kwargs[name]!r}; write a number")
    settings = settings_of(generation_kwargs)
    if not settings["do_sample"]:
        return
    if unknown := settings.keys() - NUMBERS - {"do_sample", "until", "max_gen_toks"}:
        raise UserError(f"generation_kwargs: {', '.join(sorted(unknown))}: a task that samples takes no such setting")
    temperature, top_p = settings.get("temperature", 0.0), settings.get("top_p", 1.0)
    if temperature <= 0:
        raise UserError(
            f"generation_kwargs: do_sample is true with temperature {temperature}; give one above 0, or drop do_sample"
        )
    if not 0 < top_p <= 1:
        raise UserError(f"generation_kwargs: top_p is {top_p}; it must be above 0 and at most 1")
