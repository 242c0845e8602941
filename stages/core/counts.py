"""What the stages count, one type per file of results/ITERATION. `report` and `lance plan` read it."""

from typing import NotRequired, TypedDict

from stages.core.rows import Route

Counts = TypedDict("Counts", {"in": int, "out": int, "dropped": dict[str, int]})
"""Rows that went into a step, that came out, and that were dropped, by reason; in = out + dropped."""


class MeanWords(TypedDict):
    """Mean lengths in words; None without texts."""

    instruction: float | None
    response: float | None


class ReasoningCounts(TypedDict):
    """Completions with reasoning, which is kept apart from the answer."""

    completions: int
    answers: int  # that follow it; the others end in their reasoning, or have it within the answer


class PrepareCounts(TypedDict):
    """results/0/prepare.json"""

    seed: Counts
    judge: Counts  # judge-training rows
    words: MeanWords  # of the seed set
    noted: NotRequired[dict[str, int]]  # rows by what else is to tell about them: fields that were not read, …


class Scores(TypedDict):
    """How the judge's scores are distributed."""

    mean: float
    spread: float  # standard deviation
    nearest: list[int]  # how many lie nearest to 0, 1, …, 10


class Verdicts(TypedDict):
    """How many verdicts could be read."""

    asked: int  # requested of the judge
    written: int  # of the prompts that fit its context
    readable: int


class VerifierCounts(TypedDict):
    """What the verifiers said of the rows that have a check."""

    passed: int
    failed: int
    problems: dict[str, int]  # checks that could not be carried out, by reason


class ReviewCounts(TypedDict):
    """results/t/review.json and assess.json"""

    rows: Counts
    reviewed: int  # rows that this judge had not scored before
    verdicts: Verdicts
    scores: Scores | None  # None: no row has a score
    on_scores: NotRequired[float]  # probability of a score behind elicited words, the mean; missing: there are none
    claims: NotRequired[int]  # rows read without something that could be taken for a verdict; missing: none
    reasoning: NotRequired[ReasoningCounts]  # missing where no completion has any
    verified: NotRequired[VerifierCounts]  # missing with review.by: judge
    stopped: NotRequired[bool]  # the chain was stopped before this iteration


class Ranks(TypedDict):
    """The distribution in which scores are ranked, with review.scale: quantile."""

    scores: int
    same: float  # the largest share of them that are equal


class RoutingCounts(Counts):
    """Seeds by route."""

    low: int  # scored at most V: they get new instructions
    high: int  # scored above V: they get flawed responses


class SampleCounts(TypedDict):
    """The samples of each kind that generate draws."""

    new_instructions: Counts
    responses: Counts
    flawed_responses: Counts
    own_responses: NotRequired[Counts]  # missing where generate.max_own is 0


class RouteCounts(TypedDict):
    """The seeds that generate starts from."""

    seed: RoutingCounts
    own_seed: NotRequired[Counts]  # people's rows; missing where generate.max_own is 0


class GenerateCounts(RouteCounts, SampleCounts):
    """results/t/generate.json"""

    ranks: NotRequired[Ranks]  # missing where scores are compared as they are
    reasoning: NotRequired[ReasoningCounts]  # missing where no completion has any


class Diversity(TypedDict):
    """How different the kept new instructions are; None: nothing to compare."""

    distance: float | None  # mean cosine distance of their embeddings
    distinct_1: float | None  # different words over all words
    distinct_2: float | None  # different pairs of words over all pairs
    near_duplicates: float | None  # share of the compared instructions that repeat an earlier one


class DroppedExample(TypedDict):
    """A row that the filter dropped."""

    route: Route
    prompt: str
    response: str
    reason: str


class FilterCounts(TypedDict):
    """results/t/filter.json"""

    rows: Counts
    diversity: Diversity
    words: MeanWords  # of what is kept
    examples: list[DroppedExample]


class ExampleSeed(TypedDict):
    """The seed row that an example comes from."""

    id: str
    prompt: str
    response: str
    score: float | None
    review: str | None


class ExamplePair(TypedDict):
    """The pair that an example became a side of."""

    chosen: str
    rejected: str
    margin: float


class Example(TypedDict):
    """A candidate's way: what it came from, what the judge wrote about both, and what became of it."""

    route: Route
    seed: ExampleSeed
    instruction: str
    response: str
    score: float | None
    review: str | None  # the first; None: the score is an earlier iteration's
    sft: bool  # it became an SFT row
    pair: ExamplePair | None


class SetCounts(Counts):
    """A set of rows that select adds to: the tally is of the new rows."""

    new: int
    earlier: int
    total: int


class AgreementCounts(TypedDict):
    """Instructions by the agreement of the responses to them."""

    instructions: int
    below: int  # select.agreement: dropped
    above: int  # likewise
    unknown: int  # fewer than two final answers can be read: kept


class SpreadCounts(TypedDict):
    """Candidates by how far their verdicts lie apart."""

    rows: int
    undecided: int  # above select.max_spread: dropped
    unknown: int  # fewer than two verdicts can be read: kept


class ScreeningCounts(TypedDict):
    """What select leaves out before it makes its sets."""

    candidates: Counts
    agreement: NotRequired[AgreementCounts]  # missing where select.agreement is null
    spread: NotRequired[SpreadCounts]  # missing where select.max_spread is null


class SelectCounts(TypedDict):
    """results/t/select.json"""

    sft: SetCounts
    pairs: SetCounts
    seed: SetCounts
    ranks: NotRequired[Ranks]  # missing where scores are compared as they are
    screening: NotRequired[ScreeningCounts]  # missing where nothing is asked for
    replayed_judge_training: NotRequired[Counts]  # missing where the chain was stopped
    examples: list[Example]


class LogPoint(TypedDict):
    """The mean of some consecutive steps of a training."""

    step: int  # the last of them
    loss: float
    margin: NotRequired[float]  # DPO: chosen's implicit reward over rejected's
    accuracy: NotRequired[float]  # DPO: share of pairs in which chosen has the higher reward
    chosen: NotRequired[float]  # DPO: the chosen responses' mean reward, and the rejected ones'
    rejected: NotRequired[float]


class TrainingCounts(TypedDict, total=False):
    """results/t/sft.json and dpo.json: either the reason to copy the input model, or the rest."""

    passed_on: str
    rows: Counts
    steps: int
    log: list[LogPoint]


class BenchmarkScore(TypedDict):
    """The score of a benchmark, in percent."""

    score: float
    stderr: float
    items: int
    also: NotRequired[dict[str, "BenchmarkScore"]]  # by other metrics of lm-eval, if the suite lists any


class SuiteScore(BenchmarkScore):
    """The mean over benchmarks, and each one's score."""

    benchmarks: dict[str, BenchmarkScore]
    chance: NotRequired[float]  # what guessing would score, of pairs of which one is right


class EvaluationCounts(TypedDict):
    """results/t/evaluate.json"""

    validation: SuiteScore
    test: SuiteScore
    judging: SuiteScore | None  # how well the model judges; None: the suite has no such benchmark
    apart: SuiteScore | None  # benchmarks outside the suite's score; None: there are none
    reasoning: NotRequired[ReasoningCounts]  # missing where no text has any


class Share(TypedDict):
    """A share of the rows that the world knows."""

    percent: float | None  # None: it knows none of them
    of: int  # rows that it knows


class Interval(Share):
    """A share with the ends of its 95 % interval, in percent; None: there is none."""

    low: float | None
    high: float | None


class VerifiedCounts(TypedDict):
    """What the verifiers know of an iteration's candidates and of what it selected."""

    judge_in_order: Interval  # the judge scores a response that passes higher than one to the same prompt that fails
    sft_rows_passing: Interval
    pairs_in_order: Interval  # chosen passes and rejected fails, of the pairs in which one of them does
    problems: dict[str, int]  # checks that could not be carried out, by reason


class Correlation(TypedDict):
    """Spearman's rank correlation with the ends of its 95 % interval; None: there is none."""

    rank: float | None
    of: int
    low: float | None
    high: float | None


class LabelledRow(TypedDict):
    """A response that the judge has scored and people have labelled."""

    id: str
    route: str  # "seed", or the candidate's
    score: float  # the judge's
    compared: float  # the same on `review.scale`
    weight: float  # how many rows of its route and rounded score it stands for
    labels: dict[str, int]  # by person, 0–10


class LabelledPair(TypedDict):
    """Two responses of which the judge prefers one and people have said which is better."""

    chosen: str  # id of the response that the judge prefers
    rejected: str
    margin: float
    weight: float
    labels: dict[str, float]  # by person: 1: the chosen one is better, 0: the rejected one, 0.5: a tie


class BoundRows(TypedDict):
    """A bound on the judge's scores or margins, and what lies above it and above others."""

    now: float
    above: dict[str, int]  # by bound: seeds above V, SFT rows or pairs before the limits of select


class Agreement(TypedDict):
    """How two sides agree: the judge with people, or people with each other."""

    rank: Correlation  # of scores
    threshold: Interval  # both sides put a row above V, or both do not
    min_sft_score: Interval  # the same at select.min_sft_score; of nothing where that is null
    min_margin: Interval  # both prefer the same response of a pair whose margin is above select.min_margin


class BestBound(TypedDict):
    """The bound at which the judge agrees best with what people put above the present one."""

    bound: float
    agreement: Interval
    now: Interval  # the agreement at the present bound
    points: float | None  # over the present bound, with the ends of the 95 % interval; None: there are none
    low: float | None
    high: float | None
    rows: tuple[int, int]  # above the present bound, and above this one


class PeopleCounts(TypedDict):
    """What people say of an iteration's rows, or of those of a run."""

    labels: int  # in labels/, of all runs
    elsewhere: int  # of these, of no row here
    people: int  # who labelled rows here
    bounds: dict[str, BoundRows]  # threshold, min_sft_score (unless null), min_margin
    rows: list[LabelledRow]
    pairs: list[LabelledPair]
    judge: Agreement
    between: Agreement | None  # None: no row has labels of two people
    best: dict[str, BestBound]  # by bound, where there are labels


class MeasureCounts(TypedDict):
    """results/t/measure.json"""

    judge_right: Share  # the score agrees with the truth
    instructions_well_posed: Share
    sft_rows_correct: Share
    sft_rows_held_out: Share  # may be one of the benchmark's problems in other words
    pairs_in_order: Share  # chosen is right and rejected wrong, of the pairs in which one is
    verifiers: NotRequired[VerifiedCounts]  # missing where no candidate has a check
    own_responses_right: NotRequired[Share]  # of those that the filter kept; missing where there are none
    people: NotRequired[PeopleCounts]  # missing where labels/ has no label
