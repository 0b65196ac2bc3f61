"""Where a transcript first goes wrong."""

import jiwer

from companion.speech.text import normalise

_WRONG = ("substitute", "insert")  # a word left out is not in the transcript


def first_wrong_word(reference: str, transcript: str) -> int | None:
    """Which of the transcript's words, from 0, is the first that was not said there; or None.

    Words of both are aligned by least edits after Whisper's English normaliser; a word that stands
    for another, or for none, is wrong. The number counts the words as they were written, between
    spaces. Where the normaliser makes one word of several ("twenty one"), the first of them.
    """
    (chunks,) = jiwer.process_words(normalise(reference), normalise(transcript)).alignments
    wrong = [chunk.hyp_start_idx for chunk in chunks if chunk.type in _WRONG]
    if not wrong:
        return None
    words = transcript.split()
    return next(
        i
        for i in range(len(words))
        if len(normalise(" ".join(words[: i + 1])).split()) > min(wrong)
    )
