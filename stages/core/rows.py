"""The rows that flow through the loop, one type per kind; each is a line of a JSON Lines file of iterations/t.

prepare writes seed and SFT rows, review adds scores, generate writes candidates, filter splits them into kept and
dropped, assess adds scores, select makes SFT rows, preference pairs and seed rows of them, evaluate scores benchmark
items. Scores are 0–10 (paper, section 3.2) but for `ItemScore`; ids are those of `records.content_id`.
"""

from typing import Any, Literal, NotRequired, TypedDict

# a new instruction with its responses, the model's own responses to a seed's prompt, or flawed ones to it
Route = Literal["new", "own", "flawed"]
Part = Literal["validation", "test"]  # of a benchmark: chooses the best iteration, or is reported

Check = dict[str, Any]  # how a program checks a response (core/checks.py)


class Draw(TypedDict):
    """One sample of the model."""

    prompt_hash: str  # id of the prompt
    draw: int  # which of its samples, from 0


class Lineage(TypedDict, total=False):
    """What a text was made from, and what the judge made of it.

    A generated text has a seed and the samples that made it; once selected it also has its score and verdicts. A
    judge-training row has the last two fields alone.
    """

    seed: str  # id of the seed row
    instruction: Draw  # the sample that is the prompt; missing where that is the seed's own
    shots: list[str]  # ids of the seeds shown before this one when the prompt was written; missing where there are none
    response: Draw  # the sample that is the response; missing where that is the seed's own
    score: float  # mean of the readable verdicts
    verdicts: list[float | None]  # of each sampled review; None: unreadable
    reviewed: str  # id of the pair that the review is about
    review_prompt_hash: str  # id of the review's prompt


class Identified(TypedDict):
    """A row with its identity."""

    id: str  # the hash of the row's content, equal in every run


class Pair(TypedDict):
    """A prompt and its response, as a seed file has them."""

    prompt: str
    response: str
    check: NotRequired[Check]  # missing where no program can check a response to the prompt


class JudgeTrainingPair(Pair):
    """A pair with a review of it, as the file `seed.reviews` has them."""

    review: str  # ends in a verdict, as the prompt set's verdict.yaml reads it


class SeedRow(Identified, Pair):
    """A row of the seed set S_t; its id is that of prompt and response."""

    iteration: str  # in which it joined the seed set; "0": it is the user's
    score: float | None  # by the newest review; None: never reviewed, or no readable verdict
    judge: NotRequired[str]  # the iteration whose model gave the score, or "verifier"; missing before the first review
    verdicts: NotRequired[list[float | None]]  # behind the score; missing before the first review
    lineage: NotRequired[Lineage]  # missing where the row is the user's


VERIFIER, VOTES, ORIGIN = WITHOUT_JUDGE = ("verifier", "votes", "origin")  # in the place of a judge's iteration


class Review(TypedDict):
    """One review that the judge wrote."""

    text: str
    score: float | None  # None: no readable verdict
    written: float | None  # the verdict as written, or the likeliest one; differs from the score unless it is sampled


class ReviewablePair(Identified, Pair):
    """What review needs to know of a row."""

    score: NotRequired[float | None]  # an earlier one
    judge: NotRequired[str]  # who gave it
    passed: NotRequired[bool | None]  # what a verifier said then


class ReviewedPair(Identified, Pair):
    """What review adds to a row."""

    score: float | None  # mean of the readable verdicts; None: none can be read
    judge: str  # the iteration whose model gave the score, or "verifier"
    reviews: list[Review]  # empty where the score is an earlier one by the same judge
    passed: NotRequired[bool | None]  # what the verifier says; None: it could not tell; missing: nothing was verified


class ReviewedSeed(SeedRow):
    """A seed row after review."""

    reviews: list[Review]  # empty where the score is an earlier one by the same judge


class ScoredSeed(Identified, Pair):
    """What a candidate keeps of the seed row that it comes from."""

    score: float | None  # None: the seed has none, which only the route "own" takes


class SeedOrCandidate(ReviewablePair):
    """What review and assess read: a row of the seed set, or a candidate."""

    seed: NotRequired[ScoredSeed]  # of a candidate


class Candidate(Identified, Pair):
    """A generated pair; its id is that of prompt and response."""

    route: Route
    seed: ScoredSeed
    lineage: Lineage


class DroppedCandidate(Candidate):
    """A candidate that the filter dropped."""

    reason: str


class JudgedCandidate(Candidate, ReviewedPair):
    """A candidate after assess."""


class SftRow(Identified):
    """A prompt and the completion to learn; its id is that of the pair, or of a review's prompt."""

    # the user's pair, a review to learn judging from, or a selected candidate by its route
    kind: Literal["seed", "judge", "new", "own"]
    prompt: str
    completion: str
    iteration: str  # in which it was selected; "0": from the user's files
    lineage: Lineage


class Outcome(Identified):
    """What select made of a candidate, or of a seed row whose responses it compared."""

    steps: dict[str, str | None]  # {candidates, sft, pairs, seed: why it fell; None: it was kept}, of those it came to


class PairLineage(TypedDict):
    """Where the two responses of a preference pair come from."""

    chosen: Lineage
    rejected: Lineage


class PreferencePair(Identified):
    """Two responses to a prompt, the judge's preferred one first; its id is that of prompt, chosen and rejected."""

    prompt: str
    chosen: str
    rejected: str
    margin: float  # chosen's score over rejected's, or its rank (review.scale); above select.min_margin
    iteration: str  # in which it was selected
    lineage: PairLineage


class BenchmarkItem(Identified):
    """An item of the suite; its id is that of task, index and text."""

    group: str  # items of one group are resampled together, such as translations of one problem
    benchmark: str  # its name in suite.yaml
    task: str  # lm-eval's task
    index: int  # of lm-eval's document in the task
    part: Part
    text: str  # kept out of the training data
    question: NotRequired[str]  # the same without its choices, where the text has some


class JudgingPair(Identified):
    """Two responses to a question, the better one known, as the prompts that ask for their reviews."""

    group: str  # pairs of one question are resampled together
    benchmark: str  # the kind of pair
    task: str  # judging
    index: int  # of the row
    part: Part
    better: str
    worse: str
    lead: str  # the words before the score, which are put into the judge's mouth
    highest: int  # scores go from 0 to this


class ItemScore(Identified):
    """An iteration's score on a benchmark item."""

    group: str
    benchmark: str
    part: Part
    score: float  # lm-eval's metric, 0–1, higher is better
