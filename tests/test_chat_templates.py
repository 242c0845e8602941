"""Every chat template that trl ships: what is learnt is what generation and evaluation continue, token for token."""

import json
import re
from pathlib import Path

import pytest
import trl
from conftest import ROOT
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from stages.core.errors import UserError
from stages.core.records import Tally
from stages.dpo import chats_of as pairs_as_tokens
from stages.models import chat, chat_setup
from stages.models.chat import render, trained_tokens
from stages.models.reasoning import is_begun
from stages.sft import chats_of as rows_as_tokens

FOLDER = Path(trl.__file__).parent / "chat_templates"
TEMPLATES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.jinja"))}
SPECIAL = re.compile(
    r"<\|[^|<>\s]+\|>|<\|[a-z_]+>|<[a-z_]+\|>|<｜[^｜]+｜>|</?s>|<(?:start|end)_of_\w+>|\[gMASK\]|<sop>"
)
THINKING = ["<think>", "</think>"]  # tokens of their own, but not special: they are in a completion's text
BEGINNINGS = {
    "gemma": "<bos>",
    "llama": "<|begin_of_text|>",
    "deepseek": "<｜begin▁of▁sentence｜>",
    "cohere": "<BOS_TOKEN>",
}
ENDS = {"glm4moe": "<|user|>"}  # GLM's turn has no end of its own: the next one's beginning stops a completion
PARTS = ("idefics3", "llava_next", "smolvlm")  # these read a message as a list of parts, and leave out a text
COMPLETIONS = [
    "Because it is.",
    "    if x:\n        return 1\n",
    "\n\n- one\n- two\n\n",
    "Use re.sub(r'<think>.*?</think>', '', text), not </think>.",
    "Схема, कि, 🙂 ",
]
QWEN3 = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
CHANGED = {  # what the prompt of a changed template ends with
    "qwen3_instruct": None, "qwen3_vl": None, "qwen3_5_nothink": None, "qwen3": QWEN3,
    "nemotron": "<|im_start|>assistant\n<think></think>",
    "glm4moe": "Why?/nothink<|assistant|>\n<think></think>\n",
    "deepseek": "<｜User｜>Why?<｜Assistant｜>",
    "gptoss": "<|start|>assistant<|channel|>final<|message|>",
    "muse": "<|start|>assistant to=user<|message|>",
}  # fmt: skip
OFF_BY_DEFAULT = ("gemma4", "diffusion_gemma", "qwen3_5_nothink")
CONVERSATIONS = [("Why?", ""), ("Why?\n\nSay it.", "Be kind.")]


def tokenizer_with(template: str, name: str = ""):
    """The embedded default's tokenizer with another family's special tokens and chat template."""
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "stages/microworld/base")
    begin = next((token for family, token in BEGINNINGS.items() if name.startswith(family)), None)
    special = list(dict.fromkeys(SPECIAL.findall(template)))
    tokenizer.add_special_tokens({"extra_special_tokens": special}, replace_extra_special_tokens=False)
    if begin:
        tokenizer.add_special_tokens({"bos_token": begin})
    if "<think>" in template:
        tokenizer.add_tokens(THINKING)
    tokenizer.chat_template = template
    return tokenizer


def model_for(tokenizer, name: str = ""):
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, max_position_embeddings=512,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    ends = [tokenizer.eos_token, *([ENDS[name]] if name in ENDS else [])]
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.convert_tokens_to_ids(ends))
    return model


@pytest.fixture(params=[name for name in TEMPLATES if not name.startswith(PARTS)])
def prepared(request, tmp_path):
    """A family's tokenizer after the stage `base`, as every later stage and every engine loads it."""
    name = request.param
    tokenizer = tokenizer_with(TEMPLATES[name], name)
    model = model_for(tokenizer, name)
    chat_setup.prepare(model, tokenizer)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    loaded.name, loaded.ends = name, set(model.generation_config.eos_token_id)
    return loaded


def tokens_of(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_what_is_learnt_is_the_rendered_prompt_the_completion_and_the_end(prepared):
    for prompt, system in CONVERSATIONS:
        rendered = render(prepared, prompt, system)
        assert prompt in rendered
        assert system in rendered
        for completion in COMPLETIONS:
            prompt_tokens, learnt = trained_tokens(prepared, prompt, completion, system)
            assert prompt_tokens == tokens_of(prepared, rendered)
            end = next(index for index, token in enumerate(learnt) if token in prepared.ends)
            assert prepared.decode(learnt[:end]) == completion
            assert not set(prompt_tokens[-1:]) & prepared.ends


def test_trl_is_given_the_tokens_that_generation_reads_and_then_the_completion(prepared):
    """SFT and DPO alike; no token is trained twice, and the mask begins with the completion."""
    row = {"id": "1", "prompt": "Why?", "completion": COMPLETIONS[1]}
    pair = {"id": "1", "prompt": "Why?", "chosen": COMPLETIONS[0], "rejected": COMPLETIONS[1], "margin": 3.0}
    prompt = tokens_of(prepared, render(prepared, "Why?", "Be kind."))
    (sft,) = rows_as_tokens([row], prepared, "Be kind.", 4096, Tally(1))
    (dpo,) = pairs_as_tokens([pair], prepared, "Be kind.", 4096, Tally(1))
    assert sft["input_ids"] == dpo["prompt_ids"] + dpo["rejected_ids"]
    assert dpo["prompt_ids"] == prompt
    assert sft["completion_mask"] == [0] * len(prompt) + [1] * len(dpo["rejected_ids"])


def test_whoever_renders_the_saved_template_gets_the_same_prompt(prepared):
    """lm-eval passes `enable_thinking` with vLLM, and a server's users may. A template whose reasoning is off unless it
    is asked for is not changed."""
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"}]
    options = [{}, {"enable_thinking": None}, {"thinking": True}]
    if not prepared.name.startswith(OFF_BY_DEFAULT):
        options.append({"enable_thinking": True})
    how = {"tokenize": False, "add_generation_prompt": True, **chat.VARIABLES}
    for option in options:
        assert prepared.apply_chat_template(messages, **how, **option) == render(prepared, "Why?", "Be kind.")


def test_the_template_itself_writes_an_answer_behind_the_prompt(prepared):
    """So that what others train with the saved template agrees with its prompts, too."""
    for context in chat_setup.CONTEXTS:
        assert chat.blank_before_answer(prepared, context) == ""


@pytest.mark.parametrize("name", TEMPLATES)
def test_only_a_template_that_disagrees_is_changed(name):
    changed = next((ending for family, ending in CHANGED.items() if name.startswith(family)), None)
    tokenizer = tokenizer_with(TEMPLATES[name], name)
    if name.startswith(PARTS):
        with pytest.raises(UserError, match=r"leaves out a message that is plain text|cannot render a conversation"):
            chat_setup.prepare(model_for(tokenizer), tokenizer)
        return
    published = TEMPLATES[name]
    if "System role not supported" in published:
        published = chat_setup._read_template("system_in_first_turn") + published
    chat_setup.prepare(model_for(tokenizer, name), tokenizer)
    assert (tokenizer.chat_template == published) == (changed is None)
    if changed:
        switched_off = "{%- set enable_thinking = false %}" + published
        assert (tokenizer.chat_template == switched_off) == name.startswith(("qwen3", "nemotron"))
        assert render(tokenizer, "Why?").endswith(changed)


def test_the_date_of_a_prompt_does_not_change_from_day_to_day():
    dated = [name for name, template in TEMPLATES.items() if "strftime_now" in template]
    assert {"gptoss", "llama3_2", "muse_glimmer"} <= set(dated)
    for name in dated:
        tokenizer = tokenizer_with(TEMPLATES[name], name)
        chat_setup.prepare(model_for(tokenizer, name), tokenizer)
        assert re.search("26 Jul 2024|2024-07-26", render(tokenizer, "Why?"))


def test_a_template_whose_answer_does_not_follow_its_question_is_refused_with_the_difference():
    """Neither what it writes before an answer can be told, nor where the prompt ends."""
    template = (
        "{% for message in messages %}{{ message.role + ('!' if messages[-1].role == 'assistant' else '?') + "
        "message.content + '<|endoftext|>' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant?' }}{% endif %}"
    )
    tokenizer = tokenizer_with(template)
    with pytest.raises(
        UserError, match=r"ends the prompt with '\?Why\?<\|endoftext\|>assistant\?' and begins an answer"
    ):
        chat_setup.prepare(model_for(tokenizer), tokenizer)
    assert tokenizer.chat_template == template


@pytest.mark.parametrize(("begun", "ended"), [("<think>\n\n", "</think>\n\n"), ("<think>\n", "\n</think>\n\n")])
def test_reasoning_that_a_template_begins_before_its_answers_is_ended(begun, ended):
    """As in Nemotron Nano 2: what is learnt follows the prompt, but within a block that nothing would ever close."""
    turn = f"'<|im_start|>assistant\\n{json.dumps(begun)[1:-1]}'"
    template = (
        "{% for message in messages %}{{ " + turn + " if message.role == 'assistant' else '<|im_start|>' + message.role"
        " + '\\n' }}{{ message.content + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ " + turn + " }}"
        "{% endif %}"
    )
    tokenizer = tokenizer_with(template)
    assert is_begun(render(tokenizer, "Why?"))
    tokenizer = tokenizer_with(template)
    chat_setup.prepare(model_for(tokenizer), tokenizer)
    rendered = render(tokenizer, "Why?")
    assert rendered.endswith(f"<|im_start|>assistant\n{begun}{ended}")
    prompt, learnt = trained_tokens(tokenizer, "Why?", "Because.")
    assert prompt == tokens_of(tokenizer, rendered)
    assert tokenizer.decode(learnt) == "Because.<|im_end|>\n"


def test_a_template_that_cannot_be_rendered_is_refused_with_its_error():
    tokenizer = tokenizer_with("{% for message in messages %}{{ message.content[0].text.missing.name }}{% endfor %}")
    with pytest.raises(UserError, match=r"cannot render a conversation of user.*UndefinedError"):
        chat_setup.prepare(model_for(tokenizer), tokenizer)


@pytest.mark.parametrize(
    ("template", "before"),
    [
        ("{% for m in messages %}{{ '[INST] ' + m.content + ' [/INST]' if m.role != 'assistant' else ' ' + m.content + "
         "eos_token }}{% endfor %}", " "),
        ("{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
         "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}", " "),
    ],
    ids=["Mistral", "Vicuna"],
)  # fmt: skip
def test_a_blank_before_the_answer_is_learnt_with_it(template, before):
    """As in these families' pre-training: their tokenizers write a word's blank into its first token."""
    tokenizer = tokenizer_with(template)
    chat_setup.prepare(model_for(tokenizer), tokenizer)
    assert tokenizer.chat_template == template
    prompt, learnt = trained_tokens(tokenizer, "Why?", "Because.")
    assert prompt == tokens_of(tokenizer, render(tokenizer, "Why?"))
    assert tokenizer.decode(learnt) == f"{before}Because.{tokenizer.eos_token}"


def test_blanks_do_not_melt_into_the_prompts_last_line_break():
    """Where a line break and an indentation become one token, as with GPT-2's tokenizer, generation could not write it
    behind the line break that it has read."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(["assistant\n    return 1\n    return 2\n"] * 9, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", extra_special_tokens=special)
    tokenizer.chat_template = TEMPLATES["qwen2_5"]
    chat_setup.prepare(model_for(tokenizer), tokenizer)
    rendered, completion = render(tokenizer, "Why?"), "    return 1"
    prompt = tokens_of(tokenizer, rendered)
    assert tokens_of(tokenizer, rendered + completion)[: len(prompt)] != prompt
    prompt_tokens, learnt = trained_tokens(tokenizer, "Why?", completion)
    assert prompt_tokens == prompt
    assert tokenizer.decode(learnt) == f"{completion}<|im_end|>\n"


@pytest.mark.parametrize("marks", [("[THINK]", "[/THINK]"), ("<|channel>", "<channel|>"), ("<think>", "</think>")])
@pytest.mark.parametrize("named", [False, True], ids=["listed", "named"])
def test_special_marks_of_reasoning_stay_in_a_completions_text(tmp_path, marks, named):
    """Magistral's and Gemma 4's are special tokens, which decoding leaves out: no answer could be told apart."""
    base = tokenizer_with("")
    special = dict(zip(("soc_token", "eoc_token"), marks, strict=True)) if named else list(marks)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=base.backend_tokenizer, eos_token="<|im_end|>", extra_special_tokens=special
    )
    text = f"{marks[0]}It is 5.{marks[1]}Because."
    tokens = tokens_of(tokenizer, text)
    assert tokenizer.decode(tokens, skip_special_tokens=True) == "It is 5.Because."
    tokenizer.save_pretrained(tmp_path)
    chat_setup.show_reasoning(tmp_path)
    shown = AutoTokenizer.from_pretrained(tmp_path)
    assert tokens_of(shown, text) == tokens
    assert shown.decode(tokens, skip_special_tokens=True) == text
    assert not set(marks) & set(chat.special_tokens(shown))
    shown.save_pretrained(tmp_path / "again")  # as SFT and DPO do
    assert AutoTokenizer.from_pretrained(tmp_path / "again").decode(tokens, skip_special_tokens=True) == text


def test_a_tokenizer_without_special_marks_keeps_its_bytes(tmp_path):
    tokenizer_with(TEMPLATES["qwen3"]).save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    chat_setup.show_reasoning(tmp_path)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_blanks_are_not_lost_behind_a_special_token():
    """Phi-3's tokens take the blanks behind them with them."""
    tokenizer = tokenizer_with("", "phi3")
    ends = [AddedToken(token, rstrip=True, special=True) for token in ("<|user|>", "<|assistant|>", "<|end|>")]
    tokenizer.add_special_tokens({"extra_special_tokens": ends}, replace_extra_special_tokens=False)
    tokenizer.chat_template = TEMPLATES["phi3"]
    chat_setup.prepare(model_for(tokenizer), tokenizer)
    prompt, learnt = trained_tokens(tokenizer, "Why?", "    return 1")
    assert prompt == tokens_of(tokenizer, render(tokenizer, "Why?"))
    assert tokenizer.decode(learnt).startswith("    return 1<|end|>")
