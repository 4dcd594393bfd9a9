"""What a model says beside its score, as columns, and how it reads in an alert."""

import numpy as np

from engines.answerspec import LineSpec, ModeSpec, OutputSpec, UnknownSpec
from pipeline import answers

SPEC = OutputSpec(mode=ModeSpec(("normal", "outer"), "normal"), unknown=UnknownSpec("doubt", ("no class is clear",)),
                  line=LineSpec())
OUTPUTS = {"probabilities": np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.1, 0.9]], "f4"),
           "doubt": np.array([0.1, 0.2, 1.0, np.nan], "f4"), "line": np.ones((4, 4), "f4")}


def test_a_float_doubt_of_one_or_of_no_number_is_unknown():
    said = answers.read(SPEC, OUTPUTS, slice(0, 4))
    assert [said.why_unknown(i) for i in range(4)] == ["", "", "no class is clear", "no class is clear"]


def test_what_the_rows_were_made_of_goes_before_what_the_model_says():
    said = answers.read(SPEC, OUTPUTS, slice(1, 3), np.array([0, 2], "i1"), ("no speed", "no geometry"))
    assert [said.why_unknown(i) for i in range(2)] == ["", "no geometry"]
    modes, p = said.modes()
    assert modes == ["outer", "normal"] and p.tolist() == [np.float32(0.8), 0.5]


def test_a_number_that_the_passport_does_not_name_is_a_doubt_all_the_same():
    spec = OutputSpec(unknown=UnknownSpec("code", ("few", "outside")))
    said = answers.read(spec, {"code": np.array([0, 1, 2, 7, -1], "i4")}, slice(0, 5))
    assert [said.why_unknown(i) for i in range(5)] == ["", "few", "outside", "outside", "outside"]
