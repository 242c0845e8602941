"""Verifiers: how a seed row says how a response is checked, what carries that out, and what follows from it."""

import json
import select
import socket
from pathlib import Path

import pytest
from conftest import ROOT, error_line

from stages import prepare
from stages.core import checks
from stages.core.checks import INSTRUCTIONS, PACKAGES, check_of, parse_check
from stages.core.errors import UserError
from stages.core.prompts import final_answer_rule, verdict_rule
from stages.core.records import Tally, read, write
from stages.core.rows import Pair, SeedRow
from stages.data.decontamination import HeldOut
from stages.data.routing import route
from stages.data.seeds.files import of_file
from stages.data.seeds.pairs import SeedTally, pairs
from stages.inference.engines import Completion
from stages.judging import verifiers
from stages.judging.agreement import judge_in_order, pairs_in_order, rows_passing, verify_candidates
from stages.judging.judge import sampled
from stages.judging.verifiers import Checker, Outcome, Request, verify
from stages.measure import by_verifiers, interval
from stages.prepare import seed_set
from stages.reporting import table
from stages.review import scored_rows
from stages.select import seed_rows

FUNCTIONS = """
import os
import time
from os import system
from os.path import join

def short(prompt, response, most=3):
    print("counting")
    return len(response.split()) <= most

def ends(prompt, response):
    os._exit(3)

def computes(prompt, response):
    while True:
        pass

def waits(prompt, response):
    time.sleep(1000)

def says_nothing(prompt, response):
    pass

def fails(prompt, response):
    return 1 / 0
"""
NO_COMMA = {"kind": "instructions", "ids": ["punctuation:no_comma"], "kwargs": [{}]}
NAMED = {"kind": "json", "schema": {"type": "object", "required": ["name"]}}
VOWELS = {"kind": "regex", "pattern": "^[aeiou]+$"}


@pytest.fixture(scope="module")
def functions(tmp_path_factory):
    path = tmp_path_factory.mktemp("checks") / "checks.py"
    path.write_text(FUNCTIONS)
    return path


@pytest.fixture(scope="module")
def checker(functions):
    with Checker(functions) as checker:
        yield checker


def need(kind: str) -> None:
    for package in PACKAGES.get(kind, ()):
        pytest.importorskip(package)


# ---- what a row may say ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ("not JSON", "is not JSON"),
        ([1], "is not a JSON object"),
        ({"kind": "luck"}, "Input tag 'luck' found using 'kind' does not match any of the expected tags: 'answer'"),
        ({"expected": "4"}, "Unable to extract tag using discriminator 'kind'"),
        ({"kind": "answer"}, "expected: Field required"),
        ({"kind": "answer", "expected": " "}, "expected"),
        ({"kind": "answer", "expected": "4", "wording": ["4"]}, "wording: Extra inputs are not permitted"),
        ({"kind": "regex", "pattern": "("}, "pattern: is no regular expression of Python: missing"),
        ({"kind": "json", "schema": "object"}, "schema: Input should be a valid dictionary"),
        ({"kind": "instructions", "ids": ["a:rhyme"], "kwargs": [{}]}, "'a:rhyme' is no instruction of IFEval"),
        ({"kind": "instructions", "ids": ["punctuation:no_comma"], "kwargs": []}, "kwargs: has 0 entries for 1 ids"),
        (
            {"kind": "instructions", "ids": ["length_constraints:number_words"], "kwargs": [{"num_words": 9}]},
            "kwargs: length_constraints:number_words needs num_words, relation, not num_words",
        ),
        (
            {"kind": "instructions", "ids": ["detectable_format:number_bullet_lists"], "kwargs": [{"num_bullets": 0}]},
            "num_bullets should be a whole number above 0, not 0",
        ),
        ({"kind": "python", "function": "os.system"}, "function: String should match pattern"),
        ({"kind": "python", "function": "f", "path": "evil.py"}, "path: Extra inputs are not permitted"),
        ({**VOWELS, "wording": ["only vowels"]}, "wording: 'only vowels' does not stand in the prompt"),
    ],
)  # fmt: skip
def test_a_malformed_check_says_what_is_wrong(check, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        parse_check(check, "Say something.")
    assert message in str(error.value)


def test_a_schema_that_is_none_is_malformed():
    need("json")
    with pytest.raises(ValueError, match="schema: is no JSON schema: 'thing' is not valid"):
        parse_check({"kind": "json", "schema": {"type": "thing"}}, "")


def test_null_is_as_good_as_missing_as_columns_of_a_table_have_it():
    whole = {"kind": "regex", "pattern": "a", "expected": None, "schema": None}
    assert parse_check(json.dumps(whole), "") == {"kind": "regex", "pattern": "a"}
    kwargs = [{"num_words": 9, "relation": "less than", "keywords": None}]
    parse_check({"kind": "instructions", "ids": ["length_constraints:number_words"], "kwargs": kwargs}, "")


def test_the_instructions_and_their_arguments_are_lm_evals():
    need("instructions")
    from stages.core.ifeval import checkers

    registry = checkers().instructions_registry.INSTRUCTION_DICT
    names = {name: checker(name).get_instruction_args_keys() for name, checker in registry.items()}
    assert {name: sorted(arguments.split()) for name, arguments in INSTRUCTIONS.items()} == {
        name: sorted(arguments) for name, arguments in names.items()
    }


def rows_of(tmp_path: Path, name: str, text: str, columns: dict | None = None) -> list[Pair]:
    (tmp_path / name).write_text(text)
    return list(pairs(of_file(tmp_path / name, "seed.path"), "seed.path", SeedTally(), columns))


def test_a_seed_rows_check_is_a_field_of_its_own_and_no_part_of_the_prompt(tmp_path):
    check = {"kind": "instructions", "ids": ["detectable_format:number_bullet_lists"], "kwargs": [{"num_bullets": 3}]}
    in_json = rows_of(tmp_path, "a.jsonl", json.dumps({"prompt": "Why?", "response": "So.", "check": check}))
    quoted = json.dumps(check).replace('"', '""')
    in_csv = rows_of(tmp_path, "a.csv", f'question,answer,check\nWhy?,So.,"{quoted}"\nHow?,So.,\n')
    assert in_json == in_csv[:1] == [{"prompt": "Why?", "response": "So.", "check": check}]
    assert in_csv[1] == {"prompt": "How?", "response": "So."}
    columns = {"prompt": "prompt", "response": "response"}
    assert rows_of(tmp_path, "a.jsonl", json.dumps({**in_json[0], "check": VOWELS}), columns)[0]["check"] == VOWELS
    left_out = rows_of(tmp_path, "a.jsonl", json.dumps(in_json[0]), {**columns, "ignore": ["check"]})
    assert left_out == [{"prompt": "Why?", "response": "So."}]


def test_a_row_with_a_malformed_check_is_a_bad_row(tmp_path, capsys):
    row = {"prompt": "Why?", "response": "So.", "check": {"kind": "regex", "pattern": "("}}
    with pytest.raises(Exception, match=r"malformed check 1\); .*ignore: \[check\]"):
        rows_of(tmp_path, "a.jsonl", json.dumps(row))
    assert "line 1: malformed check (pattern: is no regular expression" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("prompt", "check", "applies"),
    [
        ("Why? Use NO  commas.", {**NO_COMMA, "wording": ["no commas"]}, True),  # a flawed or own answer
        ("How? Use no\ncommas, please.", {**NO_COMMA, "wording": ["no commas"]}, True),
        ("How? Use no commas at all.", {**NO_COMMA, "wording": ["no commas", "ten words"]}, False),
        ("How? Use no commas.", NO_COMMA, False),
        ("How?", {**NO_COMMA, "wording": ["no commas"]}, False),
        ("Add 110 words.", {**NO_COMMA, "wording": ["10 words"]}, False),
    ],
)
def test_a_new_instruction_has_its_seeds_check_if_it_has_the_words_that_ask_for_it(prompt, check, applies):
    seed = {"id": "s", "prompt": "Why? Use NO  commas.", "response": "So.", "score": 5.0, "check": check}
    assert check_of({"id": "c", "prompt": prompt, "response": "Hm.", "seed": seed}) == (check if applies else None)


def test_an_answer_to_the_seeds_own_prompt_is_checked_as_the_seed_is():
    seed = {"id": "s", "prompt": "6 times 7?", "response": "42", "check": {"kind": "answer", "expected": "42"}}
    assert check_of({"id": "c", "prompt": "6 times 7?", "response": "41", "seed": seed}) == seed["check"]
    assert check_of({"id": "c", "prompt": "6 times 8?", "response": "48", "seed": seed}) is None
    assert check_of(seed) == seed["check"]


# ---- what carries it out ---------------------------------------------------------------------------------------------


def answer(expected) -> dict:
    return {"kind": "answer", "expected": expected}


@pytest.mark.parametrize(
    ("check", "response", "passed"),
    [
        (answer("67"), "The larger one is 67. The answer is 67.", True),
        (answer("67"), "67 is less. The answer is 76.", False),
        (answer(1000), "It costs 1,000 dollars.", True),
        (answer("1/2"), "So it is $\\frac{2}{4}$.", True),
        (answer("Paris"), "**Answer:** paris.", True),
        (answer("42"), "So 6 · 7 is it.\n#### 42", True),
        (answer("Paris"), "Paris", True),
        (answer("Paris"), "It is not Paris.", False),
        (VOWELS, "aeiou", True),
        (VOWELS, "hello", False),
        (NAMED, '{"name": "Ada"}', True),
        (NAMED, '```json\n{"name": "Ada"}\n```', True),
        (NAMED, '{"age": 36}', False),
        (NAMED, "Ada", False),
        (NO_COMMA, "Hello there.", True),
        (NO_COMMA, "Hello, there.", False),
        (NO_COMMA, "", False),
        ({"kind": "python", "function": "short"}, "two words", True),
        ({"kind": "python", "function": "short", "arguments": {"most": 1}}, "two words", False),
    ],
)
def test_a_response_passes_or_fails(checker, check, response, passed):
    need(check["kind"])
    answer = final_answer_rule("lance").read(response)
    assert checker.check(Request(check, "Say something.", response, answer)) == Outcome(passed)


@pytest.mark.parametrize(
    ("check", "problem"),
    [
        ({"kind": "regex", "pattern": "(a+)+$"}, "regex: not done after 1 s of computing"),
        ({"kind": "python", "function": "computes"}, "python computes: not done after 1 s of computing"),
        ({"kind": "python", "function": "waits"}, "python waits: not done after 5 s"),
        ({"kind": "python", "function": "ends"}, "python ends: ended its process with 3"),
        ({"kind": "python", "function": "fails"}, "python fails: raised ZeroDivisionError"),
        ({"kind": "python", "function": "says_nothing"}, "says_nothing: returned NoneType instead of true or false"),
        ({"kind": "python", "function": "system"}, "has no such function"),  # imported: data names no code of others
        ({"kind": "python", "function": "join"}, "has no such function"),
        ({"kind": "python", "function": "nowhere"}, "has no such function"),
    ],
)
def test_a_check_that_cannot_be_carried_out_is_neither_a_pass_nor_a_fail(functions, monkeypatch, check, problem):
    need(check["kind"])
    monkeypatch.setattr(verifiers, "SECONDS", 1)
    monkeypatch.setattr(verifiers, "WAIT", 5 if check.get("function") == "waits" else 300)
    response = f'"{"a" * 40}b"'
    outcomes = verify("checks", [Request(check, "", response), Request(VOWELS, "", "a")], functions)
    assert outcomes[0].passed is None
    assert problem in outcomes[0].problem
    assert outcomes[1] == Outcome(True), "the next check has a process again"
    assert verifiers.problems(outcomes) == {outcomes[0].problem: 1}


def test_what_a_schema_refers_to_is_not_fetched(functions):
    need("json")
    with socket.create_server(("127.0.0.1", 0)) as server:
        schema = {"$ref": f"http://127.0.0.1:{server.getsockname()[1]}/schema.json"}
        (outcome,) = verify("checks", [Request({"kind": "json", "schema": schema}, "", "{}")], functions)
        assert outcome.problem.startswith("json: raised")
        assert not select.select([server], [], [], 0)[0], "nobody has called"


def test_a_file_of_functions_that_cannot_be_loaded_is_one_line(tmp_path):
    (tmp_path / "checks.py").write_text("def broken(:\n")
    with pytest.raises(Exception, match=r"review\.checks: .*checks\.py cannot be loaded \(SyntaxError: "):
        verify("checks", [Request({"kind": "python", "function": "broken"}, "", "")], tmp_path / "checks.py")


# ---- scores ----------------------------------------------------------------------------------------------------------


def test_both_the_judge_scores_and_the_verifier_vetoes(monkeypatch):
    monkeypatch.chdir(ROOT)
    rows = [{"id": name, "prompt": "Why?", "response": name} for name in ("passes", "fails", "unsure", "unchecked")]
    verdict = sampled(Completion("It is correct. score: 7", "stop"), verdict_rule("micro"))
    outcomes = {"passes": Outcome(True), "fails": Outcome(False), "unsure": Outcome(None, "regex: raised")}
    scored = scored_rows({"review.by": "both"}, rows, "0", [[verdict]] * 4, outcomes, [])
    assert {name: row["score"] for name, row in scored.items()} == {
        "passes": 7.0, "fails": 0.0, "unsure": 7.0, "unchecked": 7.0,
    }  # fmt: skip
    assert [row.get("passed", "nothing") for row in scored.values()] == [True, False, None, "nothing"]
    assert scored["fails"]["reviews"][0]["score"] == 7.0


@pytest.fixture
def verified(project):
    """A project whose verifier scores, with three seeds and no model at all."""
    project.change({"review": {"by": "verifier"}})
    rows = [
        {"id": "a", "prompt": "Vowels?", "response": "aeiou", "iteration": "0", "score": None, "check": VOWELS},
        {"id": "b", "prompt": "Vowels?", "response": "xyz", "iteration": "0", "score": None, "check": VOWELS},
        {"id": "c", "prompt": "Why?", "response": "So.", "iteration": "0", "score": None},
    ]
    (project.folder / "iterations/0").mkdir(parents=True)
    seed = project.folder / "iterations/0/seed.jsonl"
    seed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return project


REVIEW = ("stages.review", "--rows", "iterations/0/seed.jsonl", "--judge", "iterations/0/model")


def test_a_verifier_scores_without_a_model(verified):
    result = verified.stage(*REVIEW, "--out", "iterations/1/review.jsonl")
    assert result.returncode == 0, result.stderr
    rows = read(verified.folder / "iterations/1/review.jsonl", SeedRow)
    assert [(row["score"], row["judge"]) for row in rows] == [(10, "verifier"), (0, "verifier"), (None, "verifier")]
    counts = json.loads(verified.read("results/1/review.json"))
    assert counts["rows"] == {"in": 3, "out": 2, "dropped": {"no check": 1}}
    assert counts["verified"] == {"passed": 1, "failed": 1, "problems": {}}
    assert counts["verdicts"] == {"asked": 0, "written": 0, "readable": 0}
    assert "3 of 3 rows scored anew, 1 checks passed, 1 failed, mean score 5.00" in result.stdout


def test_checks_that_cannot_be_carried_out_end_the_stage_above_the_bound(verified):
    seed = verified.folder / "iterations/0/seed.jsonl"
    seed.write_text(seed.read_text().replace(json.dumps(VOWELS), '{"kind": "python", "function": "nowhere"}'))
    line = error_line(verified.stage(*REVIEW, "--out", "iterations/1/review.jsonl"))
    assert "2 of 2 checks could not be carried out (the most frequent: python nowhere: " in line
    assert "review.max_unparsed allows 10%" in line
    verified.change({"review": {"max_unparsed": 1.0}})
    assert verified.stage(*REVIEW, "--out", "iterations/1/review.jsonl").returncode == 0
    counts = json.loads(verified.read("results/1/review.json"))
    assert counts["rows"]["dropped"] == {"could not be checked": 2, "no check": 1}


def test_a_verifier_without_any_check_is_an_error_that_says_what_to_do(verified):
    seed = verified.folder / "iterations/0/seed.jsonl"
    seed.write_text(seed.read_text().splitlines()[2])
    line = error_line(verified.stage(*REVIEW, "--out", "iterations/1/review.jsonl"))
    assert "review.by: verifier, and none of the 1 seed rows has a field `check`" in line


def test_a_check_goes_with_a_row_from_prepare_to_the_next_seed_set():
    pair = {"prompt": "Vowels?", "response": "aei", "check": VOWELS}
    (seed,) = seed_set([pair, {"prompt": "Why?", "response": "So."}][:1], None, 0, Tally(1))
    (low, *_), _ = route([{**seed, "score": 5.0}], 7.0, 1, 1, "0", Tally(1))
    assert seed["check"] == low["check"] == VOWELS
    judged = {**candidate("a", "aaa", 8.0), "route": "new", "judge": "0", "lineage": {"seed": "s"}}
    (grown,) = seed_rows([judged], "1", Tally(1))
    assert grown["check"] == VOWELS
    without = {"prompt": "Why?", "response": "So."}
    assert "check" not in seed_set([without], None, 0, Tally(1))[0]


# ---- how the judge agrees --------------------------------------------------------------------------------------------


def candidate(name, response, score, prompt="Vowels?", **fields):
    seed = {"id": "s", "prompt": "Vowels?", "response": "aei", "score": 5.0, "check": VOWELS}
    reviews = [] if score is None else [{"text": "", "score": score, "written": score}]
    row = {"id": name, "route": "flawed", "prompt": prompt, "response": response, "seed": seed, "reviews": reviews}
    return {**row, "score": 0.0, "check": VOWELS, **fields}


CANDIDATES = [
    candidate("a", "aaa", 8.0),
    candidate("b", "eee", 4.0),
    candidate("c", "xxx", 6.0),
    candidate("d", "yyy", 4.0),
    candidate("e", "zzz", None),
    candidate("f", "uuu", 9.0, prompt="More vowels?"),
]


def test_the_judge_is_in_order_where_its_own_reviews_prefer_what_passes(functions):
    outcomes = verify_candidates("checks", CANDIDATES, functions, final_answer_rule("lance").read)
    assert outcomes["Vowels?", "aei"] == Outcome(True), "the seed's own response to the same prompt"
    items = list(judge_in_order(CANDIDATES, outcomes))
    assert sorted(item["score"] for item in items) == [0.0, 0.5, 1.0, 1.0]  # 4<6, 4=4, 8>6, 8>4
    assert interval(items) == {"percent": 62.5, "of": 4, "low": None, "high": None}  # of one prompt


def test_what_was_selected_is_measured_by_the_verifiers(functions):
    outcomes = verify_candidates("checks", CANDIDATES, functions, final_answer_rule("lance").read)
    sft = [{"prompt": "Vowels?", "completion": text} for text in ("aaa", "xxx", "never seen")]
    pairs = [
        {"prompt": "Vowels?", "chosen": chosen, "rejected": rejected}
        for chosen, rejected in (("aei", "xxx"), ("yyy", "eee"), ("aaa", "eee"))
    ]
    assert [item["score"] for item in rows_passing(sft, outcomes)] == [1.0, 0.0]
    assert [item["score"] for item in pairs_in_order(pairs, outcomes)] == [1.0, 0.0]
    counts = by_verifiers(CANDIDATES, sft, pairs, outcomes)
    assert (counts["sft_rows_passing"]["percent"], counts["sft_rows_passing"]["of"]) == (50.0, 2)
    assert counts["problems"] == {}


def test_measure_says_what_the_verifiers_know(project):
    here = project.folder / "iterations/1"
    write(here / "assess.jsonl", CANDIDATES)
    row = {"id": "a", "kind": "new", "prompt": "Vowels?", "completion": "aaa", "iteration": "1", "lineage": {}}
    write(here / "sft.jsonl", [row, {**row, "id": "c", "completion": "xxx", "iteration": "0"}])
    write(here / "pairs.jsonl", [])
    result = project.stage("stages.measure", "--iteration", "1")
    assert "judge in order by verifiers 62.5 % of 4, sft rows passing 100.0 % of 1\n" in result.stdout
    assert json.loads(project.read("results/1/measure.json"))["verifiers"]["judge_in_order"]["percent"] == 62.5
    write(here / "assess.jsonl", [])
    assert "nothing can be measured" in project.stage("stages.measure", "--iteration", "1").stdout
    assert "verifiers" not in json.loads(project.read("results/1/measure.json")), "the default's bytes stay"


def test_a_share_has_an_interval_over_prompts():
    scores = [1.0] * 30 + [0.0] * 10
    items = [
        {"id": str(number), "group": str(number), "benchmark": "checks", "part": "test", "score": score}
        for number, score in enumerate(scores)
    ]
    share = interval(items)
    assert (share["percent"], share["of"]) == (75.0, 40)
    assert 55 < share["low"] < 70 < 80 < share["high"] < 90
    one_prompt = [{**item, "group": "g"} for item in items[:20]]
    wider = interval([*one_prompt, *items[20:]])
    assert wider["high"] - wider["low"] > share["high"] - share["low"], "answers to one prompt are not independent"


def test_the_report_shows_what_the_verifiers_know_and_only_where_there_are_checks():
    share = {"percent": 81.25, "of": 16, "low": 60.0, "high": 97.5}
    nothing = {"percent": None, "of": 0, "low": None, "high": None}
    counts = {
        "judge_in_order": share,
        "sft_rows_passing": nothing,
        "pairs_in_order": share,
        "problems": {"regex: x": 2},
    }
    rows = {"0": {}, "1": {"measure": {"verifiers": counts}}, "2": {"measure": {}}}
    assert table.verifiers(rows)[1:] == [
        ["1", "81.2 [60.0, 97.5] of 16", "–", "81.2 [60.0, 97.5] of 16", "regex: x 2"],
    ]
    assert table.verifiers({"0": {}, "2": {"measure": {}}}) == []


# ---- the seed set and its held-out suite -----------------------------------------------------------------------------

SEEDS = ROOT / "stages/presets/verifiable.jsonl"
HELD_OUT = ROOT / "evaluation/instructions/data/instructions.jsonl"


@pytest.fixture(scope="module")
def seeds():
    return list(pairs(of_file(SEEDS, "seed.path"), "seed.path", SeedTally()))


def test_the_seed_set_has_300_rows_and_every_response_passes_its_check(seeds, functions):
    need("instructions")
    outcomes = verify("checks", [Request(row["check"], row["prompt"], row["response"]) for row in seeds], functions)
    failing = [row["prompt"] for row, outcome in zip(seeds, outcomes, strict=True) if not outcome.passed]
    assert (len(seeds), failing) == (300, [])
    kinds = {name for row in seeds for name in row["check"]["ids"]}
    assert len(kinds) == 22


def test_a_check_of_the_seed_set_tells_responses_apart(seeds, functions):
    """The response to the next row rarely fits."""
    need("instructions")
    others = [*seeds[1:], seeds[0]]
    requests = [
        Request(row["check"], row["prompt"], other["response"]) for row, other in zip(seeds, others, strict=True)
    ]
    passed = [outcome.passed for outcome in verify("checks", requests[:100], functions)]
    assert passed.count(True) < 40


def test_no_seed_is_an_item_of_the_held_out_suite(seeds):
    held_out = [json.loads(line)["prompt"] for line in HELD_OUT.read_text(encoding="utf-8").splitlines()]
    assert len(held_out) == len(set(held_out)) == 120
    benchmark = HeldOut(held_out, 0.9)  # as stages/presets/lance.yaml has it
    assert [row["prompt"] for row in seeds if benchmark.is_in(row["prompt"])] == []


def test_the_held_out_suite_scores_an_answer_by_the_same_checks(monkeypatch):
    need("instructions")
    from stages.evaluation import suite

    monkeypatch.chdir(ROOT)
    tasks = suite.load_tasks("instructions", suite.load("instructions"))
    task = tasks["instructions"]["tasks"]["instructions"]
    document = next(row for row in task.eval_docs if row["instruction_id_list"] == ["punctuation:no_comma"])
    scores = [task.process_results(document, [text])["prompt_level_strict_acc"] for text in ("Try it.", "Well, no.")]
    assert scores == [1.0, 0.0]


def test_what_checks_need_and_is_not_installed_is_named(monkeypatch):
    sentences = {"kind": "instructions", "ids": ["length_constraints:number_sentences"], "kwargs": [{}]}
    monkeypatch.setattr(checks, "has_tokenizer", lambda: False)
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    assert checks.missing_packages([NAMED, VOWELS, answer("4")]) == ["answer (math_verify)", "json (jsonschema)"]
    monkeypatch.setattr(checks, "find_spec", lambda name: name)
    assert checks.missing_packages([NAMED, NO_COMMA]) == []
    (missing,) = checks.missing_packages([sentences])
    assert missing.startswith("length_constraints:number_sentences (nltk's punkt_tab: run `lance suite ifeval` once")


def test_rows_with_checks_need_packages_which_prepare_names(project, monkeypatch):
    (project.folder / "seeds.jsonl").write_text(
        json.dumps({"prompt": "Who?", "response": '{"name": "Ada"}', "check": NAMED})
    )
    (project.folder / "iterations/0").mkdir(parents=True)
    (project.folder / "iterations/0/benchmark.jsonl").write_text("")
    project.change({"seed": {"path": "seeds.jsonl"}})
    monkeypatch.chdir(project.folder)
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    with pytest.raises(UserError) as raised:
        prepare.main()
    assert 'checks of its rows need what is not installed: json (jsonschema); pip install -e ".[verifiers]"' in str(
        raised.value
    )
    assert not Path("iterations/0/seed.jsonl").exists()
