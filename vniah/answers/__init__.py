r"""What a generated text says: which of the accepted answers it is, or none.

A text counts only where all of it is the answer, and a text that can be read in two ways is wrong:

    a text for the answer "yellow"          a text for "B" of A. Cat, B. Dog, C. A fox
    Yellow   " yellow. "   **Yellow**       B   b.   (B)   Option B   Answer: B   The answer is (B).
    Answer: yellow   It is the yellow       dog   the dog   B. Dog   (B) dog   Dog (B)
    not: The flag is yellow.                not: B or C   Not B   B. Cat   A dog and a cat
    not: yellow or red   not yellow         not: I think it is (B), not (C)   B, because it barks

- Case does not count, nor white space, nor punctuation, quotes, brackets and emphasis around a
  word. Inside of a word everything counts, and so do signs: ``3.5`` is not ``35``, ``-5`` is not
  ``5``, and ``5%`` is not ``5``.
- Characters that nobody sees do not count, and forms of one character that only look different are
  the same (`vniah.answers.folding`).
- The articles *an*, *the* and a small *a* do not count before another word. A capital *A* may be a
  letter: it is an article only where a text begins with it, and in an answer it always counts
  ("A positive").
- A text may begin with "Answer:", "The answer is", "It is" and the like, with four of them at most.
  Any other sentence is no answer, because there are too many ways to say "not". Accept it as a
  variant of the answer, or ask for a single word or phrase.
- What stands around a whole answer is taken off: reasoning before it, tokens that end a turn,
  ``\boxed{}``, tags, code fences, one-field JSON (`vniah.answers.wrappers`).
- Of several options the text names one by its letter, by its words, or by both if they agree. A
  single "A" is the option; "A cat ..." is no letter, but words that begin with an article.

Needle sets are loaded by the same rules: options that these rules cannot tell apart are refused
(`find_ambiguous`).
"""

from vniah.answers.folding import normalize, strip_invisible, visible
from vniah.answers.matching import (
    choice_letters,
    find_ambiguous,
    find_option,
    has_fixed_form,
    is_readable,
    match_answer,
    read_choice,
    readings_of,
)
from vniah.answers.numbers import match_first_number, numbers_in
from vniah.answers.rules import TEXT_RULES, MatchRule
from vniah.answers.times import read_number_in_order, read_second
from vniah.answers.wrappers import final_text, unwrap

__all__ = [
    "TEXT_RULES",
    "MatchRule",
    "choice_letters",
    "final_text",
    "find_ambiguous",
    "find_option",
    "has_fixed_form",
    "is_readable",
    "match_answer",
    "match_first_number",
    "normalize",
    "numbers_in",
    "read_choice",
    "read_number_in_order",
    "read_second",
    "readings_of",
    "strip_invisible",
    "unwrap",
    "visible",
]
