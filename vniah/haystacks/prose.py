"""Plain English prose from a seed: a text haystack that everybody has, of any length.

Sentences are grammatical and say nothing in particular; they hold no digits, no quotes and no city.
Every sentence is drawn from a hash of the seed and its number, so a longer text begins with the
shorter one, and the text is the same with every version of Python.
"""

import hashlib
import re

GENERATOR = "prose-v1"
"""The name and version of the generator: raise it when any text changes."""

_WORDS = {
    "time": "In the early morning|Late in the evening|After the long winter|Before the harvest|On "
    "the first warm day|Toward the end of the week|When the bells had stopped|Once the rain was "
    "over|Some years later|Around noon|During the festival|Not long afterwards|At the usual hour|"
    "On the way home|As soon as the fog lifted",
    "person": "baker|carpenter|teacher|fisherman|gardener|librarian|miller|nurse|painter|shepherd|"
    "tailor|traveler|watchmaker|weaver|clerk|ferryman|beekeeper|printer|musician|stonemason|sailor|"
    "farmer|potter|cook|innkeeper|postman|student|surveyor|widow|merchant",
    "adjective": "quiet|patient|cheerful|tired|careful|stubborn|friendly|curious|elderly|young|"
    "serious|modest|restless|thoughtful|generous|shy|honest|clever|absent-minded|hopeful",
    "quality": "wooden|heavy|narrow|polished|dusty|broken|bright|faded|simple|hollow|round|crooked|"
    "borrowed|forgotten|unfinished|painted|plain|rusty|smooth|worn",
    "thing": "table|lantern|basket|ladder|kettle|violin|notebook|umbrella|clock|blanket|mirror|"
    "bucket|hammer|bench|letter|map|chair|bottle|coat|candle|window|wheel|bell|rope|drawer|fence|"
    "boat|cart|loaf|stove",
    "place": "by the river|behind the mill|near the old bridge|at the edge of the forest|in the "
    "market square|under the chestnut tree|beside the harbor|on the hill|in the upper room|along "
    "the canal|outside the school|across the meadow|in the back of the shop|below the castle|at "
    "the crossroads|in the orchard|opposite the station|near the lighthouse|inside the barn|on the "
    "terrace",
    "did": "repaired|carried|examined|described|admired|measured|bought|hid|lent|found|cleaned|"
    "dropped|moved|wrapped|collected|borrowed|remembered|sold|inspected|returned",
    "said": "explained|insisted|believed|remarked|admitted|hoped|suspected|noticed|agreed|"
    "remembered",
    "weather": "the wind turned to the north|the clouds moved slowly over the valley|a light snow "
    "began to fall|the sun warmed the stones|the river rose a little|the air smelled of hay|the "
    "stars came out one by one|a thin mist covered the fields|the leaves began to turn|thunder was "
    "heard far away",
    "event": "the road would soon be mended|the bread had risen well|nobody had seen the dog|the "
    "meeting would take place as planned|the price of wool had gone up|the children knew the song "
    "already|the key fitted the other door|the boat needed a new sail|the story was only half true|"
    "the apples were late this year|the visitors would stay for supper|the roof had been leaking "
    "for some time",
    "way": "slowly|without a word|with great care|in a hurry|as usual|against all advice|to "
    "everyone's surprise|with a smile|for the second time|almost by accident",
}
_TEMPLATES = (
    "{time}, the {adjective} {person} {did} the {quality} {thing} {place}.",
    "The {person} {said} that {event}, and the {adjective} {person} nodded.",
    "{time}, {weather}, but the {person} stayed {place} and {did} the {thing} {way}.",
    "Nobody knew why the {adjective} {person} had left the {quality} {thing} {place}.",
    "The {quality} {thing} belonged to the {person}, who {did} it {way} whenever {weather}.",
    "{time}, the {person} and the {person} met {place} and talked about the {thing}.",
    "The {person} {did} the {quality} {thing} {way}, for {event}.",
    "While {weather}, the {adjective} {person} sat {place} and {said} that {event}.",
    "The {thing} {place} was {quality}, and so was the {thing} that the {person} had made.",
    "Had the {person} asked, the {adjective} {person} would have {said} that {event}.",
    "There was a {quality} {thing} {place}, and every {person} who came by {did} it {way}.",
    "{time}, {event}.",
)
_LISTS = {name: tuple(words.split("|")) for name, words in _WORDS.items()}
_FIELD = re.compile(r"\{(\w+)\}")
_SENTENCES_PER_PARAGRAPH = 9


def write_prose(num_characters: int, *, seed: int = 0) -> str:
    """At least so many characters of prose, in whole sentences and paragraphs of nine.

    Args:
        num_characters: the length.
        seed: another seed gives another text.
    """
    parts: list[str] = []
    length = number = 0
    while length < num_characters:
        if number:
            parts.append(" " if number % _SENTENCES_PER_PARAGRAPH else "\n\n")
        parts.append(_sentence(seed, number))
        length += len(parts[-1]) + 1
        number += 1
    return "".join(parts)


def _sentence(seed: int, number: int) -> str:
    name = f"{GENERATOR}\n{seed}\n{number}"
    left = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=32).digest(), "big")

    def take(items: tuple[str, ...]) -> str:
        nonlocal left
        left, place = divmod(left, len(items))
        return items[place]

    return _FIELD.sub(lambda match: take(_LISTS[match[1]]), take(_TEMPLATES))
