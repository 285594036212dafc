"""Names of classes."""

from convzoo.labels import unique_names


def test_repeated_names_stay_apart():
    names = ["crane", "maillot", "crane", "tench", "maillot"]
    assert unique_names(names) == ["crane", "maillot", "crane (2)", "tench", "maillot (2)"]
    assert unique_names(["a", "a", "a (2)"]) == ["a", "a (2)", "a (2) (2)"]
