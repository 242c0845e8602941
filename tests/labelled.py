"""Reviewed seeds and assessed candidates, as the judge scores them, for people to label."""

from stages.core.records import content_id, write


def reviews_of(score):
    return [{"text": f"Right: 1. Given: 1. It is correct and clear. score: {score}", "score": score, "written": score}]


def seed_row(number, score, response="is one"):
    prompt = f"Question {number}?"
    key = content_id(prompt, response)
    return {"id": key, "prompt": prompt, "response": response, "iteration": "0", "score": score, "judge": "0",
            "reviews": reviews_of(score)}  # fmt: skip


def candidate(route, prompt, response, score, seed):
    key = content_id(prompt, response)
    own = {name: seed[name] for name in ("id", "prompt", "response", "score")}
    return {"id": key, "route": route, "prompt": prompt, "response": response, "seed": own,
            "lineage": {"seed": seed["id"]}, "score": score, "judge": "0", "reviews": reviews_of(score)}  # fmt: skip


def write_iteration(folder, key, number, extra=()):
    """Seeds with every score, and four responses to each of `number` new instructions; scores are skewed to 9."""
    seeds = [seed_row(f"{key} {seed}", float(seed % 11)) for seed in range(44)]
    rows = [*extra]
    for task in range(number):
        for draw in range(4):
            score = 9.0 if task % 3 else float((task + 3 * draw) % 11)
            rows.append(candidate("new", f"Task {key} {task}", f"Response {draw}", score, seeds[0]))
    rows += [candidate("flawed", seeds[9]["prompt"], f"is wrong {draw}", float(draw), seeds[9]) for draw in range(4)]
    write(folder / f"iterations/{key}/review.jsonl", seeds)
    write(folder / f"iterations/{key}/assess.jsonl", rows)
