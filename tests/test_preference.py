"""DPO's loss is the formula of params.yaml's `dpo`, worked out here pair by pair; trl's own where trl has one."""

import pytest
import torch
from datasets import Dataset
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from stages.core.records import Tally
from stages.dpo import chats_of
from stages.training import preference

PAIRS = [
    {
        "prompt": f"Which is larger, {number} or 50?",
        "chosen": "is 50" + " indeed" * long,
        "rejected": bad,
        "margin": lead,
    }
    for number, long, bad, lead in [(12, 0, "maybe 7", 2.5), (31, 3, "it is hard to say", 7.5), (44, 1, "12", 4.0)]
]
PLAIN = {
    "reference": "sft", "beta": 0.5, "nll": 0.0, "loss": "sigmoid", "label_smoothing": 0.0, "weight": "none",
}  # fmt: skip


@pytest.fixture(scope="module")
def moved(tiny_model):
    """A policy that has moved away from the model in its folder, which is its reference; its tokenizer, and pairs."""
    policy, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    torch.manual_seed(0)
    for weight in policy.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    return policy, tokenizer, chats_of(PAIRS, tokenizer, "", 512, Tally(len(PAIRS)))


def trainer(moved, folder, settings, rows=3, precompute=False, **options):
    policy, tokenizer, chats = moved
    config = DPOConfig(
        str(folder), per_device_train_batch_size=rows, gradient_accumulation_steps=3 // rows, max_steps=1,
        learning_rate=1e-9, logging_steps=1, bf16=False, gradient_checkpointing=False, use_cpu=True, report_to="none",
        save_strategy="no", disable_tqdm=True, precompute_ref_log_probs=precompute, **options,
    )  # fmt: skip
    data = Dataset.from_list(preference.weighted(chats, settings["weight"]))
    return preference.trainer_of(
        policy, settings, precompute, args=config, train_dataset=data, processing_class=tokenizer
    )


def log_probability(model, prompt, response):
    """Of a response, the sum over its tokens; no batch and no padding."""
    with torch.no_grad():
        log_probs = model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
    return sum(log_probs[len(prompt) - 1 + index, token] for index, token in enumerate(response))


def by_hand(moved, tiny_model, beta, nll, norm, smoothing, weights):
    """The loss of one step with all pairs, and the mean reward of the chosen and of the rejected responses."""
    policy, _, chats = moved
    reference = AutoModelForCausalLM.from_pretrained(tiny_model)
    loss, likelihood, rewards = 0.0, 0.0, torch.zeros(2)
    for chat, weight in zip(chats, weights, strict=True):
        sides = chat["chosen_ids"], chat["rejected_ids"]
        of_policy, of_reference = (
            [log_probability(model, chat["prompt_ids"], side) for side in sides] for model in (policy, reference)
        )
        ratios = [
            (mine - other) / (len(side) if norm else 1)
            for mine, other, side in zip(of_policy, of_reference, sides, strict=True)
        ]
        margin = beta * (ratios[0] - ratios[1])
        loss -= weight * ((1 - smoothing) * logsigmoid(margin) + smoothing * logsigmoid(-margin)) / len(chats)
        likelihood += weight * of_policy[0]
        rewards += beta * torch.stack(ratios) / len(chats)
    tokens = sum(len(chat["chosen_ids"]) for chat in chats)
    return float(loss - nll * likelihood / tokens), rewards.tolist()


EVEN, BY_MARGIN = [1.0, 1.0, 1.0], [2.5 * 3 / 14, 7.5 * 3 / 14, 4.0 * 3 / 14]
MIXED = {"nll": 0.7, "loss": "sigmoid_norm", "label_smoothing": 0.2, "weight": "margin"}


@pytest.mark.parametrize(
    ("settings", "formula"),
    [
        ({}, (0.0, False, 0.0, EVEN)),
        ({"nll": 0.7}, (0.7, False, 0.0, EVEN)),
        ({"loss": "sigmoid_norm"}, (0.0, True, 0.0, EVEN)),
        ({"label_smoothing": 0.2}, (0.0, False, 0.2, EVEN)),
        ({"weight": "margin"}, (0.0, False, 0.0, BY_MARGIN)),
        ({"weight": "margin", "nll": 0.7}, (0.7, False, 0.0, BY_MARGIN)),
        (MIXED, (0.7, True, 0.2, BY_MARGIN)),
    ],
    ids=["plain", "nll", "norm", "smoothing", "margin", "margin and nll", "all"],
)
@pytest.mark.parametrize("how", [{}, {"rows": 1}, {"precompute": True}], ids=["", "micro-batches", "precomputed"])
def test_the_loss_and_the_rewards_of_a_step_are_the_formulas(moved, tiny_model, tmp_path, settings, formula, how):
    if how.get("precompute"):  # trl then takes the policy as it is for its reference
        moved_back = AutoModelForCausalLM.from_pretrained(tiny_model)
        current = trainer((moved_back, *moved[1:]), tmp_path, PLAIN | settings, **how)
        current.model.load_state_dict(moved[0].state_dict())
    else:
        current = trainer(moved, tmp_path, PLAIN | settings, **how)
    before = {name: weight.clone() for name, weight in moved[0].state_dict().items()}
    current.train()
    moved[0].load_state_dict(before)  # the step is tiny, but none
    (log,) = (entry for entry in current.state.log_history if "loss" in entry)
    loss, (chosen, rejected) = by_hand(moved, tiny_model, 0.5, *formula)
    assert log["loss"] == pytest.approx(loss, abs=1e-4)
    assert abs(chosen) > 0.01
    assert (log["rewards/chosen"], log["rewards/rejected"]) == pytest.approx((chosen, rejected), abs=1e-4)
    assert log["rewards/margins"] == pytest.approx(chosen - rejected, abs=1e-4)


@pytest.mark.parametrize("loss", ["sigmoid", "sigmoid_norm"])
@pytest.mark.parametrize("nll", [0.0, 0.7])
def test_without_weights_and_smoothing_it_is_trls_own_loss(moved, tmp_path, loss, nll):
    ours = trainer(moved, tmp_path, PLAIN | {"loss": loss, "nll": nll})
    batch = ours.data_collator(list(ours.train_dataset))
    mine = ours.compute_loss(ours.model, batch)
    ours.beta, ours.loss_types, ours.loss_weights = 0.5, [loss, "sft"], [1.0, nll]
    del batch["weights"]
    trls = DPOTrainer.compute_loss(ours, ours.model, batch)
    gradients = [torch.autograd.grad(value, list(ours.model.parameters())) for value in (mine, trls)]
    assert mine.item() == pytest.approx(trls.item(), abs=1e-6)
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_weights_are_margins_over_their_mean_so_that_their_own_mean_is_one():
    chats = [{"prompt_ids": [1], "margin": margin} for margin in (2.5, 7.5, 5.0)]
    assert preference.weighted(chats, "margin") == [{"prompt_ids": [1], "weight": weight} for weight in (0.5, 1.5, 1.0)]
    assert [chat["weight"] for chat in preference.weighted(chats, "none")] == [1.0] * 3
