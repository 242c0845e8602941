"""evaluate: the suites' lm-eval tasks are valid, read answers as intended, and share no item between their parts."""

import re

import pytest
import yaml
from conftest import ROOT

from stages.evaluate import SPLITS, items
from stages.microworld.world import FAMILIES

MICRO = ROOT / "evaluation/micro"


@pytest.fixture(scope="module")
def tasks():
    from lm_eval.tasks import TaskManager, get_task_dict

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        manager = TaskManager(include_path=str(MICRO), include_defaults=False)
        return {split: get_task_dict([f"micro_{split}", f"micro_{split}_judging"], manager) for split in SPLITS}


def test_each_part_has_every_family_and_the_judging_task(tasks):
    for split in SPLITS:
        assert items(tasks[split], None) == {"validation": 8 * 30 + 80, "test": 8 * 100 + 160}[split]
        assert items(tasks[split], 4) == 9 * 4
        group = yaml.safe_load((MICRO / f"{split}.yaml").read_text())
        assert group["task"] == [f"micro_{split}_{family}" for family in FAMILIES]


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("The larger one is 67. The answer is 67.", "67"),
        ("The answer is 45. The answer is 67.", "67"),
        ("is fox", "fox"),
        ("maybe 67", "67"),
        ("i think odd", "odd"),
        ("guess red", "red"),
        ("This is red", None),
    ],
)
def test_an_answer_is_read_from_each_style(response, answer):
    task = yaml.safe_load((MICRO / "_answer.yaml").read_text())
    (filtered,) = task["filter_list"]
    found = re.findall(filtered["filter"][0]["regex_pattern"], response)
    assert (found[-1] if found else None) == answer


def test_the_judging_prompt_is_the_prompt_sets(monkeypatch):
    from stages.core.prompts import Review

    monkeypatch.chdir(ROOT)
    task = yaml.safe_load((MICRO / "_judging.yaml").read_text())
    filled = task["doc_to_text"].replace("{{question}}", "Why?").replace("{{response}}", "is so")
    assert filled == Review("micro").prompt("Why?", "is so")
