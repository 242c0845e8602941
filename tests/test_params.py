"""A stage sees the parameters that dvc.yaml declares for it, and nothing else."""

import pytest

from stages.core.errors import UserError
from stages.core.params import Params, read_params

VALUES = {"threshold": 7.0, "review": {"samples": 3, "top_p": 0.9}}


def test_a_declared_section_gives_each_of_its_parameters():
    params = Params("review", ["review"], VALUES)
    assert params["review"] == {"samples": 3, "top_p": 0.9}
    assert params["review.samples"] == 3


def test_an_undeclared_parameter_is_an_error_that_names_stage_parameter_and_remedy():
    with pytest.raises(UserError, match=r"stage 'review' reads the parameter 'threshold'.*add it under stages\.review"):
        Params("review", ["review"], VALUES)["threshold"]


def test_declaring_one_parameter_does_not_open_its_section():
    params = Params("review", ["review.samples"], VALUES)
    assert params["review.samples"] == 3
    with pytest.raises(UserError, match=r"review\.top_p"):
        params["review.top_p"]
    with pytest.raises(UserError, match="'review'"):
        params["review"]


def test_a_declared_parameter_that_params_yaml_lacks_is_named():
    with pytest.raises(UserError, match=r"params\.yaml has no 'samples'"):
        Params("generate", ["samples"], VALUES)["samples"]


def test_the_declarations_come_from_dvc_yaml(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    assert read_params("generate")["threshold"] == 7.0
    with pytest.raises(UserError, match="does not declare"):
        read_params("review")["threshold"]
