"""A source says itself what its models are: no other code asks for its name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from support.models import batch, quantized, seeded
from support.onnx_models import float_file, images, static_file

import sensitivity
from sensitivity.opened import quantized_model
from sensitivity.preflight.float_model import not_comparable
from sensitivity.quantizers.alternatives import with_alternatives
from sensitivity.quantizers.base import WithFloat, form_of, name_in_words
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.quantizers.onnx.qdq import OnnxQdqModel
from sensitivity.records import Range
from sensitivity.registry import FAMILIES
from sensitivity.simulators.choose import simulator_for
from sensitivity.units.relations import structure_of


class ForeignFiles(OnnxQdqModel):
    """The files of another package's source: ours under another name."""

    source = "foreign_files"


@pytest.fixture
def foreign(tmp_path: Path) -> ForeignFiles:
    return ForeignFiles(
        OnnxModel(static_file(float_file(tmp_path / "f.onnx"), tmp_path / "q.onnx"))
    )


def test_a_source_of_files_under_another_name_gets_what_files_get(foreign: ForeignFiles) -> None:
    own = OnnxQdqModel(foreign.model)
    simulators = [simulator_for(source, images(2, 0)) for source in (own, foreign)]
    assert [type(one).__name__ for one in simulators] == ["OnnxReplay"] * 2
    structures = [structure_of(source, images(2, 0)) for source in (own, foreign)]
    assert structures[0] == structures[1]
    assert structures[0].problem is None
    assert not_comparable(foreign, torch.nn.Identity(), images(2, 0)) == (
        "a Q/DQ file is compared with the file that OnnxModel(float_path=...) names"
    )


def test_a_file_with_other_ranges_on_offer_is_still_a_file(foreign: ForeignFiles) -> None:
    name = foreign.quantizers[0].name
    offered = with_alternatives(foreign, [Range(name, "mse", (0.5,))])
    assert form_of(offered) == "onnx"


def test_a_source_that_says_nothing_is_a_torch_module() -> None:
    pytest.importorskip("modelopt")
    from support.models import Chain

    source = quantized_model(quantized(seeded(Chain), batch()))
    assert (form_of(source), name_in_words(source)) == ("torch", "a modelopt model")
    assert not isinstance(source, WithFloat)


def test_only_the_registry_and_the_source_itself_name_a_source() -> None:
    """`source == "..."` anywhere else would leave out sources of other packages."""
    folder = Path(sensitivity.__file__).parent
    asks = re.compile(rf"""source\b[^\n]*[!=]= ?["']({"|".join(FAMILIES["quantizers"])})["']""")
    found = [
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*.py")
        if asks.search(file.read_text(encoding="utf-8"))
    ]
    assert found == []
    assert asks.search('if session.source.source == "pt2e":')
