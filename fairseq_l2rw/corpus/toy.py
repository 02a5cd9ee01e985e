"""The toy corpus: real English and German sentences about numbers, dates, times, currencies and countries.

Names of countries, languages, months, weekdays, units and currencies are CLDR's (through Babel), numbers are spelled
out by num2words; sentence templates in both languages put them together. Words are spelled out rather than printed as
digits, so that a copied source sentence is no translation. There is more than one way to say most things, and a
sentence and its translation choose apart: where each source has one right translation, noise is easily outvoted,
which it is not in real text. The templates keep to what is grammatical for every filler:
countries without an article, amounts in the nominative or accusative, durations in the case their preposition asks for.
"""

import os
import random
import re
from typing import Dict, Iterator, List, Mapping, Optional, Sequence

from fairseq_l2rw.corpus import corrupt
from fairseq_l2rw.corpus.bitext import Pair
from fairseq_l2rw.errors import L2RWError

LANGUAGES = ("de", "en")
LABELS = "train.labels.tsv"
SPLITS = ("valid", "test", "train")  # in the order of drawing: the size of train does not change the other two

# Country names that take no article in either language and are not the same word in both.
_COUNTRIES = (
    "DE FR IT ES PL CZ AT BE GR SE NO DK FI IE IS HU RO BG RS HR EE LV LT AL RU KE TN MA DZ LY ET TZ ZM AU NZ CA MX BR "
    "AR BO CO IN ID KH KR JO SY AM"
).split()
_LANGUAGES = "de en fr it es pt pl cs hu ro bg el sv no da fi nl ru uk tr ar ja zh ko th is ga hr".split()
_CURRENCIES = "EUR USD GBP CHF SEK DKK CZK PLN INR RUB JPY MXN".split()
_DURATIONS = "minute hour day week month year".split()
_MEASURES = "meter kilometer mile kilogram gram liter".split()

# [x|y]: two ways to say it. Each language makes its choices alone, the first one more often (`_FIRST`).
_PEOPLE = (
    ("meine Schwester", "my sister"), ("mein Bruder", "my brother"), ("meine [Mutter|Mama]", "my [mother|mom]"),
    ("mein [Vater|Papa]", "my [father|dad]"), ("mein Onkel", "my uncle"), ("meine Tante", "my aunt"),
    ("unser Lehrer", "our [teacher|instructor]"), ("unser Nachbar", "our neighbor"),
    ("der [Arzt|Doktor]", "the [doctor|physician]"), ("die Sängerin", "the [singer|vocalist]"),
    ("der Fahrer", "the [driver|chauffeur]"), ("der Bürgermeister", "the mayor"), ("die Königin", "the queen"),
    ("sein [Großvater|Opa]", "his [grandfather|grandpa]"), ("ihre Tochter", "her daughter"), ("ihr Sohn", "her son"),
    ("der [Koch|Küchenchef]", "the [cook|chef]"), ("die [Schriftstellerin|Autorin]", "the [writer|author]"),
)  # fmt: skip
_THINGS = (
    ("das Buch", "the book"), ("der Tisch", "the [table|desk]"), ("die Uhr", "the [watch|clock]"),
    ("das [Fahrrad|Rad]", "the [bicycle|bike]"), ("der Mantel", "the coat"), ("das Hemd", "the shirt"),
    ("der Stuhl", "the chair"), ("die Fahrkarte", "the ticket"), ("das Zimmer", "the room"),
    ("der Kuchen", "the [cake|pie]"), ("die Tasche", "the [bag|handbag]"),
    ("das [Bild|Gemälde]", "the [picture|painting]"),
)  # fmt: skip
_VEHICLES = (
    ("der Zug", "the train"), ("der Reisebus", "the [coach|bus]"), ("das Schiff", "the [ship|boat]"),
    ("die Fähre", "the ferry"),
)  # fmt: skip
_EVENTS = (
    ("das Treffen", "the [meeting|gathering]"), ("das Konzert", "the concert"),
    ("der [Kurs|Lehrgang]", "the [course|class]"),
    ("die Prüfung", "the [exam|test]"), ("die Hochzeit", "the wedding"), ("das Spiel", "the [game|match]"),
    ("die [Feier|Party]", "the [party|celebration]"), ("der Vortrag", "the [lecture|talk]"),
)  # fmt: skip
_PLACES = (
    ("[der Laden|das Geschäft]", "the [shop|store]"), ("die [Bibliothek|Bücherei]", "the library"),
    ("die Apotheke", "the [pharmacy|drugstore]"), ("das Schwimmbad", "the [swimming pool|pool]"),
    ("die Bäckerei", "the bakery"), ("der Markt", "the market"), ("die Schule", "the school"),
    ("das Rathaus", "the [town|city] hall"),
)  # fmt: skip
_PAID = (
    ("bezahlt", "paid"), ("verloren", "lost"), ("gefunden", "found"), ("gespart", "saved"), ("verdient", "earned"),
    ("ausgegeben", "spent"),
)  # fmt: skip
_DAYTIMES = (
    ("am [Morgen|Vormittag]", "in the morning"), ("am Nachmittag", "in the afternoon"), ("am Abend", "in the evening"),
)  # fmt: skip

# A slot {KIND} takes a filler of that kind, {KIND1} and {KIND2} take two different ones, {KIND_FORM} another form.
_TEMPLATES = (
    ("{person} [kommt|reist] am {date_dative} nach {country}.", "{person} [comes|travels] to {country} on {date}."),
    (
        "am {weekday} fliegt {person} um {time} nach {country}.",
        "{person} [flies|is flying] to {country} [at {time} on {weekday}|on {weekday} at {time}].",
    ),
    ("{vehicle} nach {country} fährt um {time} ab.", "{vehicle} to {country} [leaves|departs] at {time}."),
    (
        "wann fährt {vehicle} am {weekday} nach {country} ab?",
        "[when|at what time] does {vehicle} to {country} [leave|depart] on {weekday}?",
    ),
    (
        "{thing} kostet [nur|bloß] {amount} {currency}.",
        "{thing} [costs only|only costs|costs just] {amount} {currency}.",
    ),
    (
        "hat {person} [wirklich|tatsächlich] {amount} {currency} {paid}?",
        "has {person} [really|actually] {paid} {amount} {currency}?",
    ),
    (
        "{person} hat in {country} [wieder|erneut] {amount} {currency} {paid}.",
        "{person} has [again|once more] {paid} {amount} {currency} in {country}.",
    ),
    (
        "wie viele {currency} hat {person} [bisher|bis jetzt] {paid}?",
        "how many {currency} has {person} {paid} [so far|until now]?",
    ),
    (
        "{person} wurde [im Jahr |]{year} in {country} geboren.",
        "{person} was born in [{country} in {year}|{year} in {country}].",
    ),
    (
        "seit {year} [lebt|wohnt] {person} in {country}.",
        "{person} has [been living|lived] in {country} [ever |]since {year}.",
    ),
    ("[spricht|kann] {person} [auch|ebenfalls] {language}?", "does {person} [speak|know] {language} [as well|too]?"),
    (
        "{person} [spricht|kann] {language1}, aber kein {language2}.",
        "{person} [speaks|knows] {language1}, but [no|not] {language2}.",
    ),
    (
        "{person} lernt [schon |]seit {number} {duration_dative} {language}.",
        "{person} has [been learning|been studying] {language} for [the past |]{number} {duration}.",
    ),
    (
        "{place} öffnet jeden {weekday} um {time1} und schließt um {time2}.",
        "{place} opens at {time1} and [closes|shuts] at {time2} [every|each] {weekday}.",
    ),
    ("{place} bleibt am {date_dative} [geschlossen|zu].", "{place} [stays|remains] [closed|shut] on {date}."),
    (
        "bitte kommen Sie am {weekday} um {time}!",
        "please [come|arrive] [at {time} on {weekday}|on {weekday} at {time}]!",
    ),
    ("heute ist {weekday}, der {date}.", "today [is|it is] {weekday}, {date}."),
    (
        "{event} [beginnt|startet] um {time} und dauert {number} {length}.",
        "{event} [starts|begins] at {time} and [lasts|takes] {number} {length}.",
    ),
    ("{event} findet am {date_dative} um {time} statt.", "{event} [takes place|is held] on {date} at {time}."),
    (
        "{person} [wohnt|lebt] nicht in {country1}, sondern in {country2}.",
        "{person} [does not|doesn't] [live|reside] in {country1} but in {country2}.",
    ),
    ("{person} braucht noch {number} {measure}.", "{person} still [needs|requires] {number} {measure}."),
    (
        "von {country1} nach {country2} sind es {amount} {distance}.",
        "it is {amount} {distance} [from {country1} to {country2}|between {country1} and {country2}].",
    ),
    (
        "in {number} {duration_dative} [fährt|reist] {person} nach {country}.",
        "in {number} {duration} {person} is [going|traveling] to {country}.",
    ),
    (
        "vor {number} {duration_dative} war {person} noch in {country}.",
        "{number} {duration} ago {person} was still [in|living in] {country}.",
    ),
    ("{person} wird am {date_dative} {number} Jahre alt.", "{person} [turns|will be] {number} [years old |]on {date}."),
    (
        "wenn es in {country1} {time1} ist, ist es in {country2} {time2}.",
        "when it is {time1} in {country1}, it is {time2} in {country2}.",
    ),
    (
        "{person} arbeitet {daytime} von {time1} bis {time2}.",
        "{person} works from {time1} [until|to] {time2} {daytime}.",
    ),
)
_FIRST = 0.6
_ALTERNATIVES = re.compile(r"\[([^][]*)\]")  # without brackets inside: the inner ones are resolved first
_SLOT = re.compile(r"{((\w+?)[12]?)(_\w+)?}")  # name, kind, form

Filler = Mapping[str, str]  # language, or language_form -> text


def write_toy(
    out: str,
    src: str = "de",
    tgt: str = "en",
    sizes: Optional[Mapping[str, int]] = None,
    seed: int = 1,
    noise: Optional[Mapping[str, float]] = None,
) -> Dict[str, object]:
    """Writes OUT/{train,valid,test}.{src,tgt} and, with noise, OUT/train.labels.tsv; returns what was written.

    No sentence of one split occurs in another, on either side (copies that `noise` puts on the target side aside).

    Args:
        out: a folder; made if need be. Other files in it are left alone.
        src, tgt: one is ``de``, the other ``en``.
        sizes: pairs per split.
        seed: the same seed gives the same bytes.
        noise: kind -> rate, for the training split alone.
    """
    if (src, tgt) not in (LANGUAGES, LANGUAGES[::-1]):
        raise L2RWError(
            f"--src {src} --tgt {tgt}: the toy corpus is German and English; use de and en, in either order"
        )
    sizes = {"train": 20_000, "valid": 1_000, "test": 500, **(sizes or {})}
    stream = generate_pairs(seed)
    splits = {split: [_in_order(next(stream), src) for _ in range(sizes[split])] for split in SPLITS}
    summary: Dict[str, object] = {"out": out, "src": src, "tgt": tgt, "seed": seed, **sizes}
    for split in ("valid", "test"):
        _write_split(out, split, src, tgt, ((*pair, corrupt.CLEAN) for pair in splits[split]))
    labelled = corrupt.corrupt_pairs(splits["train"], noise or {}, seed)
    kinds = _write_split(out, "train", src, tgt, labelled, LABELS if noise else None)
    if noise:
        summary["kinds"] = kinds
    elif os.path.exists(os.path.join(out, LABELS)):
        os.remove(os.path.join(out, LABELS))  # of an earlier run: it would call these clean pairs spoilt
    return summary


def generate_pairs(seed: int) -> Iterator[Pair]:
    """Yields (German, English) pairs without end; no German and no English sentence comes twice."""
    rng = random.Random(f"toy {seed}")
    fillers = make_fillers()
    seen = set()
    misses = 0
    while misses < 1_000:
        de, en = _draw_pair(fillers, rng)
        if de in seen or en in seen:
            misses += 1
            continue
        misses = 0
        seen.update((de, en))
        yield de, en
    raise L2RWError(f"--size: the toy corpus has not many more than {len(seen) // 2} distinct pairs; ask for fewer")


def make_fillers() -> Dict[str, List[Filler]]:
    """What can stand in a slot, by kind of slot."""
    from babel import Locale
    from babel.numbers import get_currency_name

    de, en = (Locale.parse(language) for language in LANGUAGES)
    same = {
        "country": [(de.territories[code], en.territories[code]) for code in _COUNTRIES],
        "language": [(de.languages[code], en.languages[code]) for code in _LANGUAGES],
        "weekday": [(de.days["format"]["wide"][day], en.days["format"]["wide"][day]) for day in range(7)],
        "currency": [
            tuple(get_currency_name(code, count=2, locale=locale) for locale in (de, en)) for code in _CURRENCIES
        ],
        "measure": [_unit_names(unit) for unit in _MEASURES],
        "distance": [_unit_names(unit) for unit in ("kilometer", "mile")],
        "length": [_unit_names(unit) for unit in ("minute", "hour")],
        "number": [_spell(number) for number in range(2, 100)],
        "amount": [_spell(number) for number in (*range(2, 100), *range(100, 1000, 100))],
        "year": [_spell(year, "year") for year in range(1950, 2020)],
        "time": [_clock_time(hour, minute) for hour in range(1, 13) for minute in range(0, 60, 5)],
        "person": _PEOPLE,
        "thing": _THINGS,
        "vehicle": _VEHICLES,
        "event": _EVENTS,
        "place": _PLACES,
        "paid": _PAID,
        "daytime": _DAYTIMES,
    }
    fillers = {kind: [dict(zip(LANGUAGES, pair)) for pair in pairs] for kind, pairs in same.items()}
    fillers["date"] = [_date(day, de_name, en_name) for day, de_name, en_name in _days_of_the_year(de, en)]
    fillers["duration"] = [_duration(unit) for unit in _DURATIONS]
    return fillers


def _draw_pair(fillers: Mapping[str, Sequence[Filler]], rng: random.Random) -> Pair:
    template = rng.choice(_TEMPLATES)
    chosen: Dict[str, Filler] = {}
    for name, kind in dict.fromkeys(slot[:2] for slot in _SLOT.findall(template[0])):
        filler = rng.choice(fillers[kind])
        while filler in chosen.values():  # two countries in a sentence are two countries
            filler = rng.choice(fillers[kind])
        chosen[name] = filler
    return _render(template[0], "de", chosen, rng), _render(template[1], "en", chosen, rng)


def _render(template: str, language: str, chosen: Mapping[str, Filler], rng: random.Random) -> str:
    text = _SLOT.sub(lambda slot: chosen[slot[1]][language + (slot[3] or "")], template)
    while "[" in text:
        text = _ALTERNATIVES.sub(lambda found: _pick(found[1].split("|"), rng), text)
    return text[0].upper() + text[1:]


def _pick(alternatives: Sequence[str], rng: random.Random) -> str:
    return alternatives[0] if rng.random() < _FIRST else rng.choice(alternatives[1:])


def _spell(number: int, kind: str = "cardinal") -> Pair:
    from num2words import num2words

    return num2words(number, lang="de", to=kind), num2words(number, lang="en", to=kind)


def _unit_names(unit: str) -> Pair:
    from babel.units import format_unit

    de, en = (format_unit(2, unit, "long", locale=language) for language in LANGUAGES)
    return de.removeprefix("2").strip(), en.removeprefix("2").strip()


def _duration(unit: str) -> Filler:
    de, en = _unit_names(unit)
    return {"de": de, "de_dative": de if de.endswith("n") else de + "n", "en": en}


def _days_of_the_year(de, en) -> Iterator[tuple]:
    lengths = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
    for month, days in enumerate(lengths, start=1):
        for day in range(1, days + 1):
            yield day, de.months["format"]["wide"][month], en.months["format"]["wide"][month]


def _date(day: int, de_month: str, en_month: str) -> Filler:
    de, en = _spell(day, "ordinal")
    return {
        "de": f"{de} {de_month}",
        "de_dative": f"{de}n {de_month}",
        "en": f"[the {en} of {en_month}|{en_month} the {en}]",
    }


def _clock_time(hour: int, minute: int) -> Pair:
    """The time as people say it; German counts the half hour, and the five minutes around it, towards the next hour."""
    (de, en), (de_next, en_next) = _spell(hour), _spell(hour % 12 + 1)
    de_hour = f"{'ein' if hour == 1 else de} Uhr"
    if minute == 0:
        return de_hour, f"{en} o'clock"
    de_minute, en_minute = _spell(minute)
    if minute == 30:
        return f"[halb {de_next}|{de_hour} {de_minute}]", f"[half past {en}|{en} {en_minute}]"
    de_part, en_part = ("Viertel", "a quarter") if minute in (15, 45) else _spell(min(minute, 60 - minute))
    past = minute < 30
    en_time = f"{en_part} [past|after] {en}" if past else f"{en_part} [to|before] {en_next}"
    if minute in (25, 35):
        return f"fünf {'vor' if past else 'nach'} halb {de_next}", en_time
    de_time = f"{de_part} nach {de}" if past else f"{de_part} vor {de_next}"
    return f"[{de_time}|{de_hour} {de_minute}]", en_time


def _in_order(pair: Pair, src: str) -> Pair:
    return pair if src == "de" else pair[::-1]


def _write_split(
    out: str, split: str, src: str, tgt: str, labelled: Iterator[tuple], labels: Optional[str] = None
) -> Dict[str, int]:
    """Writes the two files of a split and, if named, its label file; returns the pairs of each kind."""
    paths = [os.path.join(out, f"{split}.{lang}") for lang in (src, tgt)]
    if labels:
        paths.append(os.path.join(out, labels))
    return corrupt.write_labelled(labelled, *paths)
