"""Associations: needles of text that share no content word with their question.

After NoLiMa (Modarressi et al. 2025, "NoLiMa: Long-Context Evaluation Beyond Literal Matching",
arXiv 2502.05167): that somebody has sketched the Taj Mahal answers who has been to India, but only
for a reader who knows where it stands. A model that looks for the words of the question does not
find the needle. One step of common knowledge leads from each needle to its question; the wording
is vniah's own.
"""

from vniah.needles.records import Needle
from vniah.needles.sets import NeedleSet

ASSOCIATIONS = "associations"
"""The name of the set."""

LEAD = "The character's name is"
"""The end of every prompt, which the name follows."""

# Name, sentence, question. No name is that of somebody known, and each is once in the set.
_FACTS = (
    ("Odalys", "{} sketched the Taj Mahal from a rooftop.", "has been to India"),
    ("Torvald", "{} climbed Mount Fuji in thick fog.", "has been to Japan"),
    ("Ilsabet", "{} spent every lunch break beneath the Eiffel Tower.", "has been to Paris"),
    ("Ottokar", "{} watched barges pass through the Suez Canal.", "has been to Egypt"),
    ("Zelmira", "{} lost a glove near the Brandenburg Gate.", "has been to Berlin"),
    ("Casimir", "{} owned an old cello and practised it at night.", "can play a string instrument"),
    ("Perpetua", "{} never touched meat, fish, eggs or milk.", "follows a vegan diet"),
    ("Bartolo", "{} injected insulin before breakfast and supper.", "lives with diabetes"),
    ("Sunniva", "{} could not tell red apples from green ones.", "is color-blind"),
    ("Wendelin", "{} fainted whenever the window of the tenth floor stood open.", "fears heights"),
)


def association_text(name: str, sentence: str) -> str:
    """The sentence that is inserted, with the line breaks around it."""
    return f"\n{sentence.format(name)}\n"


def association_needles() -> NeedleSet:
    """Ten characters, each with a sentence and a question that it answers."""
    needles = tuple(
        Needle(
            needle_id=name.lower(),
            question=(
                f"Based on the content of the book, Question: Which character {asked}? "
                f"Answer: {LEAD}"
            ),
            answer=name,
            choices=None,
            image=None,
            text=association_text(name, sentence),
        )
        for name, sentence, asked in _FACTS
    )
    return NeedleSet(ASSOCIATIONS, ASSOCIATIONS, needles)
