"""docs/publishing.md tells the truth: its exit codes are those of the code."""

from hub_cards.hub import push_errors
from hub_cards.verify import verifying
from tests.support.documents import Page

PAGE = Page("docs/publishing.md")


def test_the_exit_codes_of_a_push_are_those_of_the_code():
    rows = PAGE.table("| status | reason |")
    assert {row[1]: int(row[0]) for row in rows} == {"done": 0} | push_errors.EXIT_CODES


def test_the_exit_codes_of_verify_are_those_of_the_code():
    meaning = {int(status): words for status, words in PAGE.table("| status | what it means |")}
    assert sorted(meaning) == [0, 1, 2, 3, 4]
    assert {code for code in meaning if code not in (1, 2)} == set(verifying.EXIT_CODES.values())
    by_verdict = {verdict: meaning[code] for verdict, code in verifying.EXIT_CODES.items()}
    assert "all of it holds" in by_verdict[verifying.HOLDS]
    assert "does not hold" in by_verdict[verifying.FAILS]
    assert "could not be checked" in by_verdict[verifying.OPEN]


def test_what_is_tried_again_is_what_the_code_tries_again():
    *first, last = push_errors.TRANSIENT_STATUSES
    assert f"statuses {', '.join(map(str, first))} and {last}" in PAGE.sentences
    assert push_errors.ATTEMPTS == 5 and "five times in all" in PAGE.sentences
