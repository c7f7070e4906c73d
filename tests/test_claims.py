"""Every measured number of the README agrees with a results file: benchmarks/claims.toml says where it is."""

import json
import math
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CLAIMS = tomllib.loads((ROOT / "benchmarks/claims.toml").read_text())
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
BEFORE = r"(?<![\w.,\u0302])(?<!\w[-−])"  # not inside a word, such as x0, x̂0, CIFAR-10
EXPONENT = "[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]"
NUMBER = re.compile(rf"{BEFORE}[-−]?\d+(?:,\d{{3}})*(?:\.\d+)*(?:·10{EXPONENT}+)?{EXPONENT}*")
NO_PROSE = re.compile(r"`[^`]*`|(?<=\])\([^)]*\)")


def flat(text):
    """The text in one line."""
    return " ".join(text.split())


def prose(text):
    """The text with inline code and link targets blanked out, at its length."""
    return NO_PROSE.sub(lambda match: " " * len(match[0]), text)


README = flat(re.sub(r"```.*?```", " ", (ROOT / "README.md").read_text(), flags=re.S))
RESULTS = [(claim, result["file"]) for result in CLAIMS["results"] for claim in result["claims"]]
NUMBERS = [(claim["text"], file, number) for claim, file in RESULTS for number in claim["numbers"]]
OTHERS = [text for entry in CLAIMS["not_measured"] for text in entry["texts"]]


# Numbers as they are stated


def as_float(stated):
    """``3·10⁻⁴`` as 0.0003, ``1,084`` as 1084.0."""
    mantissa, times, power = stated.replace(",", "").replace("−", "-").partition("10⁻")
    if times:
        return float(f"{mantissa.rstrip('·') or 1}e-{power.translate(SUPERSCRIPTS)}")
    return float(mantissa)


def last_unit(stated):
    """The unit of the last printed digit."""
    if "10⁻" in stated:
        return as_float("10⁻" + stated.partition("10⁻")[2])
    return 10.0 ** -len(stated.partition(".")[2])


def agrees(stated, value):
    """Whether the number is the value, rounded half up to the digits that are printed."""
    if isinstance(value, str) and value.count(".") > 1:  # a version
        return value == stated or value.startswith(f"{stated}.")
    units = round(float(value) / last_unit(stated), 6)  # so that 0.8085 is 808.5 units of 0.001
    return math.floor(units + 0.5) == round(as_float(stated) / last_unit(stated))


@pytest.mark.parametrize(
    ("stated", "value", "right"),
    [
        ("0.118", 0.11792, True),
        ("0.118", 0.11892, False),
        ("0.809", 0.8085, True),
        ("0.809", 0.8095, False),
        ("1,084", 1084, True),
        ("1,084", 1085, False),
        ("-1.057", -1.0573, True),
        ("3·10⁻⁴", 2.99e-4, True),
        ("3·10⁻⁴", 3.6e-4, False),
        ("10⁻⁶", "1e-6", True),
        ("10⁻⁶", "1e-5", False),
        ("0.1.1", "0.1.1.post1", True),
        ("0.1.1", "0.1.10", False),
    ],
)
def test_numbers_agree_to_the_last_printed_digit(stated, value, right):
    assert agrees(stated, value) == right


# Values in results files


@cache
def content(file):
    """The parsed JSON, or the text, of a results file."""
    text = (ROOT / file).read_text()
    return json.loads(text) if file.endswith(".json") else text


def at(data, path):
    """Follow keys, indices and {key: value} for the one element that has these values."""
    for step in path:
        if isinstance(step, dict):
            (data,) = [item for item in data if step.items() <= item.items()]
        else:
            data = data[step]
    return data


def value_of(number, file):
    """The value behind a number of the README."""
    data = content(file)
    if "expression" in number:
        return eval(number["expression"], {"data": data})
    value = at(data, number.get("path", []))
    if "pattern" in number:
        value = re.search(number["pattern"], value)[1]
    if "per" not in number:
        return value
    per = number["per"]
    return float(value) / (at(data, per) if isinstance(per, list) else per)


@pytest.mark.parametrize(
    ("text", "file", "number"), NUMBERS, ids=[f"{n['stated']} {t}" for t, _, n in NUMBERS]
)
def test_a_number_of_the_readme_is_that_of_its_results_file(text, file, number):
    if "holds" in number:
        assert number["stated"] in number["holds"]
        assert eval(number["holds"], {"data": content(file)}), text
    else:
        value = value_of(number, file)
        assert agrees(number["stated"], value), f"{text}: {value} in {file}"


# Coverage of the README


@pytest.mark.parametrize("claim", [claim for claim, _ in RESULTS], ids=lambda claim: claim["id"])
def test_a_claim_is_in_the_readme_and_gives_a_source_for_each_of_its_numbers(claim):
    assert README.count(flat(claim["text"])) == 1
    listed = [number["stated"] for number in claim["numbers"]] + claim.get("settings", [])
    everywhere = NUMBER.findall(claim["text"])
    assert all(everywhere.count(number) >= listed.count(number) for number in listed), listed
    in_prose = NUMBER.findall(prose(claim["text"]))
    assert all(in_prose.count(number) <= listed.count(number) for number in in_prose), in_prose


@pytest.mark.parametrize("text", OTHERS)
def test_a_text_that_is_no_claim_is_in_the_readme(text):
    assert flat(text) in README


def test_every_number_of_the_readme_is_listed():
    covered = set()
    for text in [claim["text"] for claim, _ in RESULTS] + OTHERS:
        for match in re.finditer(re.escape(flat(text)), README):
            covered.update(range(*match.span()))
    found = NUMBER.finditer(prose(README))
    missing = [README[max(m.start() - 40, 0) : m.end() + 20] for m in found if m.start() not in covered]
    assert not missing, "in README.md, and not in benchmarks/claims.toml"


def test_every_table_row_with_a_standard_error_has_a_source():
    sourced = {flat(claim["text"]) for claim, _ in RESULTS}
    rows = [
        flat(row)
        for row in (ROOT / "README.md").read_text().splitlines()
        if row.startswith("|") and "±" in row
    ]
    assert rows and set(rows) <= sourced


def test_claims_have_names_of_their_own_and_entries_without_a_source_have_a_reason():
    names = [claim["id"] for claim, _ in RESULTS]
    assert len(set(names)) == len(names)
    assert all(entry["reason"] for entry in CLAIMS["not_measured"])
    assert all(result["command"] for result in CLAIMS["results"])
