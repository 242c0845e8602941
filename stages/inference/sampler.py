"""Texts of one kind that a model writes for many sources: sampled, read by the prompt set's rule, and counted."""

from typing import Generic, NamedTuple, TypeVar

from stages.core.counts import Counts
from stages.core.prompts import answer_rule, read_system_prompt
from stages.core.records import Tally, content_id
from stages.core.rows import Draw
from stages.inference.client import Client
from stages.inference.engines import Sampling

Source = TypeVar("Source")


class Text(NamedTuple, Generic[Source]):
    """A text that the model wrote, what it was written for, and the sample that it is."""

    source: Source
    text: str
    draw: Draw


class Sampler:
    """Has a model write texts for many sources, and keeps those that can be read. Without `rationale`, the words before
    the text ("Final Answer:") are put into its mouth."""

    def __init__(
        self, client: Client, prompt_set: str, samples: int, sampling: Sampling, rationale: bool = True
    ) -> None:
        self.client, self.samples, self.sampling, self.rationale = client, samples, sampling, rationale
        self.prompt_set, self.system_prompt = prompt_set, read_system_prompt(prompt_set)

    def write(
        self, task: str, kind: str, sources: list[Source], prompts: list[str]
    ) -> tuple[list[Text[Source]], Counts]:
        """`samples` texts for each source by its prompt, read by the set's rule for `kind`, and their counts."""
        rule = answer_rule(self.prompt_set, kind)
        tally = Tally(len(sources) * self.samples)
        begun = "" if self.rationale else rule.marker
        samples = self.client.complete(task, prompts, self.system_prompt, self.samples, self.sampling, begun)
        texts = []
        for source, prompt, completions in zip(sources, prompts, samples, strict=True):
            for number, completion in enumerate(completions):
                text = rule.read(begun + completion.text)
                if completion.finish == "too long":
                    tally.drop("does not fit the context")
                elif completion.finish == "length":
                    tally.drop("truncated")
                elif completion.finish != "stop":  # no answer can be told from its reasoning
                    tally.drop(completion.finish)
                elif text is None:
                    tally.drop("unreadable")
                else:
                    texts.append(Text(source, text, {"prompt_hash": content_id(prompt), "draw": number}))
        return texts, tally.counts(len(texts))
