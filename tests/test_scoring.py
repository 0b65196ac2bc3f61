"""Word errors by hand, and which kind of transcript a transcript is taken for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper.utils import compression_ratio

from companion.speech.grammar import test_sentence as draw_sentence
from companion.speech.grammar import training_sentence, vocabulary
from companion.speech.text import normalise
from companion.stress.scoring import (
    Outcome,
    Score,
    is_loop,
    known_fraction,
    outcome,
    score,
    spoken_fraction,
    wer,
)

law = settings(derandomize=True, deadline=None, max_examples=50)
words = st.lists(st.sampled_from(vocabulary()), min_size=1, max_size=12).map(" ".join)

TARGET = "the quick fox found the golden lantern near the harbour"
OTHERS = (
    "anna gave oscar a wet blanket",
    "we ate bread and butter with the king",
    "twelve ships stood behind the old castle",
    "every winter the birds gathered by the lake",
    "maria said that the doctor slept",
)
REFERENCES = (TARGET, *OTHERS)


def kind(hypothesis: str, references: tuple[str, ...] = REFERENCES) -> Outcome:
    return outcome(references, hypothesis, vocabulary())


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("the cat sat", "the cat sat", 0.0),
        ("the cat sat", "the bat sat", 1 / 3),
        ("the cat sat", "the sat", 1 / 3),
        ("the cat sat", "the big cat sat", 1 / 3),
        ("the cat sat", "", 1.0),
        ("the cat", "a dog ran off quickly now", 3.0),
        ("", "", 0.0),
        ("", "the cat", 2.0),
        ("um [laughter]", "uh", 0.0),
    ],
)
def test_word_error_by_hand(reference: str, hypothesis: str, expected: float) -> None:
    assert wer(reference, hypothesis) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "respelled"),
    [
        ("the colour of the theatre", "The color of the theater."),
        ("twelve ships", "12 ships"),
        ("twenty two owls and fifty bears", "22 owls, and 50 bears!"),
        ("mr fox can't sleep", "Mister Fox cannot sleep"),
        ("it's late", "it is late"),
        ("a   café\n", "A cafe"),
    ],
)
def test_spelling_digits_case_and_punctuation_are_no_errors(text: str, respelled: str) -> None:
    if "can't" in text:  # the normaliser writes "can not", a known limit: two words against one
        assert wer(text, respelled) == pytest.approx(2 / 5)
    else:
        assert wer(text, respelled) == wer(respelled, text) == 0.0


@law
@given(text=words, more=words)
def test_word_error_is_what_is_added_over_what_was_spoken(text: str, more: str) -> None:
    assert wer(text, text) == 0.0
    assert wer(text, "") == 1.0
    # "quiet" between the two keeps the normaliser from joining their numbers
    written = normalise(f"{text} quiet {more}").split()
    spoken = normalise(text).split()
    expected = (len(written) - len(spoken)) / len(spoken)
    assert wer(text, f"{text} quiet {more}") == pytest.approx(expected)


def test_a_score_has_the_word_error_against_everyone_who_speaks() -> None:
    result = score(REFERENCES, OTHERS[2].replace("old", "new"))
    assert result.interferers[2] == pytest.approx(1 / 7)
    assert min(result.target, *result.interferers[:2], *result.interferers[3:]) > 0.5
    assert not result.is_candidate
    assert score((TARGET,), TARGET) == Score(0.0, ())


@pytest.mark.parametrize(
    ("target", "interferers", "candidate"),
    [(0.51, (), True), (0.5, (), False), (0.2, (1.0, 1.2), False), (1.0, (1.0, 0.5), False),
     (1.0, (0.51, 3.0), True)],
)  # fmt: skip
def test_a_candidate_is_far_from_everyone_who_speaks(
    target: float, interferers: tuple[float, ...], candidate: bool
) -> None:
    assert Score(target, interferers).is_candidate is candidate


def test_references_are_a_list_with_the_target_first() -> None:
    for bad in ((), "the cat sat"):
        with pytest.raises(ValueError, match="give a list, the target's reference first"):
            score(bad, "the cat")


@pytest.mark.parametrize(
    ("hypothesis", "expected"),
    [
        (TARGET, Outcome.CORRECT),
        ("the quick fox lost the golden lantern", Outcome.CORRECT),
        ("12 ships stood behind the old castle.", Outcome.INTERFERER),
        ("anna gave oscar a wet blanket", Outcome.INTERFERER),
        ("", Outcome.EMPTY),
        (" . ", Outcome.EMPTY),
        ("...", Outcome.EMPTY),
        (". . . . . . . .", Outcome.EMPTY),
        ("[music]", Outcome.ANNOTATION),
        ("[BLANK_AUDIO]", Outcome.ANNOTATION),
        ("(water running) (water running).", Outcome.ANNOTATION),
        ("*sighs*", Outcome.ANNOTATION),
        ("\u266a\u266a", Outcome.ANNOTATION),
        ("(crowd chattering", Outcome.ANNOTATION),
        ("[Music] " * 60, Outcome.ANNOTATION),
        ("[Music] clara hid a small ring and stood", Outcome.INVENTION),
        (f"(laughs) {TARGET}", Outcome.CORRECT),
        (f"*laughs loudly and long and says* {TARGET}", Outcome.CORRECT),
        ("\u266a the dog the dog the dog the dog \u266a", Outcome.LOOP),
        ("the dog and the dog and the dog and the dog and the dog and", Outcome.LOOP),
        ("nananananananana", Outcome.LOOP),
        ("the quick fox", Outcome.FRAGMENT),
        ("the quick fox found the wet blanket", Outcome.CORRECT),
        ("found the golden wet blanket with the king", Outcome.FRAGMENT),
        ("ships stood behind the birds gathered by", Outcome.FRAGMENT),
        ("the zorb flimmed a grackit onto plonv", Outcome.GIBBERISH),
        ("clara hid a small ring and stood", Outcome.INVENTION),
        ("seventeen foxes 22 23", Outcome.INVENTION),
    ],
)
def test_outcomes(hypothesis: str, expected: Outcome) -> None:
    assert kind(hypothesis) is expected


def test_writing_down_an_interferer_is_no_hallucination() -> None:
    for other in OTHERS:
        assert kind(other) is Outcome.INTERFERER
        assert kind(other, (TARGET,)) is Outcome.INVENTION  # the same text where nobody says it
        assert not score(REFERENCES, other).is_candidate


@pytest.mark.parametrize(
    ("hypothesis", "expected"),
    [("", Outcome.CORRECT), ("...", Outcome.CORRECT), ("anna slept", Outcome.INVENTION),
     ("(laughs) anna slept", Outcome.INVENTION), ("[Music]", Outcome.ANNOTATION),
     ("(water running)", Outcome.ANNOTATION), ("[BLANK_AUDIO]", Outcome.ANNOTATION),
     ("\u266a", Outcome.ANNOTATION), ("*sighs*", Outcome.ANNOTATION)],
)  # fmt: skip
def test_what_is_written_of_silence(hypothesis: str, expected: Outcome) -> None:
    assert kind(hypothesis, ("",)) is expected


def test_gibberish_is_not_judged_without_a_vocabulary_nor_three_stops_as_a_word() -> None:
    text = "the zorb flimmed a grackit onto plonv"
    assert kind(text) is Outcome.GIBBERISH
    assert outcome(REFERENCES, text, None) is Outcome.INVENTION
    assert wer("", "...") == wer("all is well", "All is well...") == 0


def test_outcomes_are_plain_strings_in_tables() -> None:
    assert f"{Outcome.CORRECT}" == Outcome.CORRECT == "correct"
    assert [member.value for member in Outcome] == [
        "correct", "interferer", "empty", "annotation", "loop", "fragment", "gibberish",
        "invention",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "loop"),
    [
        ("the big the big the big the big", True),
        ("Thank you. Thank you. Thank you. thank you.", True),
        ("aaaaaaaaaaaaaaaa", True),
        ("one word then " + "la " * 20, True),
        ("very very very good", False),
        ("no no no no", True),
        ("I I I I I", True),
        ("No. No, no! No; no?", True),
        ("Thank you. Thank you, thank you! Thank you - thank you", True),
        ("a b a b a b a b a b", True),
        ("I am, I am", False),
        ("the red dog the red dog the red dog", False),
        ("haha a shaaaame", False),
        ("a", False),
        ("", False),
    ],
)
def test_a_loop_is_a_piece_four_times_on_end(text: str, loop: bool) -> None:
    assert is_loop(text) is loop


@law
@given(piece=words, times=st.integers(4, 8), lead=words)
def test_every_repeated_phrase_is_a_loop(piece: str, times: int, lead: str) -> None:
    assert is_loop(f"{lead} " + f"{piece} " * times) or len(piece) < 2


def test_long_loops_are_those_of_openai_whisper() -> None:
    long_loop = "the red dog and the cat sat in the park " * 5
    assert compression_ratio(long_loop) > 2.4
    assert is_loop(long_loop)


def test_sentences_are_neither_loops_nor_each_other() -> None:
    rng = np.random.default_rng(0)
    spoken = [draw_sentence(rng).text for _ in range(300)]
    written = [training_sentence(rng).text for _ in range(300)]
    assert not any(map(is_loop, spoken + written))
    assert all(known_fraction(text, vocabulary()) == 1.0 for text in spoken + written)
    kinds = [kind(text, tuple(spoken[i : i + 6])) for i, text in enumerate(written[:290])]
    # by chance, two sentences of one construction differ in less than half of their words
    assert kinds.count(Outcome.INVENTION) > 0.9 * len(kinds)
    assert kinds.count(Outcome.FRAGMENT) < 0.03 * len(kinds)


@pytest.mark.parametrize(
    ("text", "fraction"),
    [("the quick fox", 1), ("we ate bread at the quick fox", 6 / 7), ("golden lantern", 1),
     ("lantern golden", 0), ("ate bread quickly and butter", 0), ("", 0)],
)  # fmt: skip
def test_spoken_fraction_by_hand(text: str, fraction: float) -> None:
    assert spoken_fraction(REFERENCES, text) == pytest.approx(fraction)
    assert spoken_fraction((), text) == 0


def test_known_fraction_by_hand() -> None:
    known = ("colour", "can't", "Fox")
    for text, fraction in {"the color": 0.5, "fox can't 17th": 1.0, "": 0.0}.items():
        assert known_fraction(text, known) == fraction
    with pytest.raises(ValueError, match="the vocabulary has no words"):
        known_fraction("fox", ())
