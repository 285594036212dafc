"""Tables of commands: cells stand in columns, whatever their width."""

from convzoo.text_table import text_table


def test_columns_end_or_begin_below_each_other():
    rows = [("name", "loss", "note"), ("a", "10.5", ""), ("longer", "2", "fine")]
    assert text_table(rows, left=(0, 2)).splitlines() == [
        "name    loss  note",
        "a       10.5",
        "longer     2  fine",
    ]
    assert text_table([("a", "b"), ("ccc", "dd")]).splitlines() == ["a     b", "ccc  dd"]
