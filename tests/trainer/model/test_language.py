"""The language model walked by hand computes what transformers computes."""

from __future__ import annotations

import pytest
import torch

from tests.trainer.conftest import small_llm
from trainer.model.language import Places, read


def places(*lengths: int) -> tuple[Places, torch.Tensor]:
    """Of sequences of these lengths, and their rows."""
    rows = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    columns = torch.cat([torch.arange(length) for length in lengths])
    width = max(lengths)
    return Places(columns, rows * width + columns, (len(lengths), width)), rows


@pytest.mark.parametrize("lengths", [(5,), (4, 4), (3, 1, 6)])
def test_hidden_states_and_gradients_equal_those_of_llama(lengths: tuple[int, ...]) -> None:
    llm, (where, rows) = small_llm(), places(*lengths)
    padded = torch.randn(*where.shape, 32)
    tokens, padded = padded[rows, where.column].requires_grad_(), padded.requires_grad_()
    ours = read(llm, tokens, where)
    theirs = llm.model(inputs_embeds=padded).last_hidden_state[rows, where.column]
    torch.testing.assert_close(ours, theirs)
    weights = list(llm.model.layers.parameters())
    upstream = torch.randn_like(ours)
    mine, its = (torch.autograd.grad((x * upstream).sum(), [leaf, *weights]) for x, leaf in ((ours, tokens), (theirs, padded)))
    torch.testing.assert_close(mine[0], its[0][rows, where.column])
    torch.testing.assert_close(mine[1:], its[1:])


def test_sequences_do_not_see_each_other() -> None:
    llm, tokens = small_llm(), torch.randn(8, 32)
    together = read(llm, tokens, places(3, 5)[0])
    torch.testing.assert_close(together[3:], read(llm, tokens[3:], places(5)[0]))
