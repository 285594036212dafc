"""The classes of ImageNet-1k: unique names, WordNet ids, and the ways to call one."""

import pytest

from convzoo.imagenet_classes import imagenet_classes, imagenet_names, imagenet_numbers


def test_there_are_1000_classes_in_the_order_of_the_challenge():
    classes = imagenet_classes()
    assert [each.number for each in classes] == list(range(1000))
    ids = [each.wordnet_id for each in classes]
    assert ids == sorted(set(ids)) and len(ids) == 1000  # published models number them so
    known = {0: "tench", 1: "goldfish", 207: "golden retriever", 281: "tabby", 387: "lesser panda"}
    known |= {340: "zebra", 817: "sports car", 999: "toilet tissue", 638: "maillot"}
    assert {number: classes[number].name for number in known} == known
    assert classes[0].wordnet_id == "n01440764" and classes[0].entry == "tench, Tinca tinca"


def test_names_differ_whatever_their_case():
    names = imagenet_names()
    assert len({name.lower() for name in names}) == 1000
    expected = {
        134: "crane (n02012849)",
        517: "crane (n03126707)",
        639: "maillot, tank suit",
        264: "Cardigan, Cardigan Welsh corgi",
        474: "cardigan",
    }
    assert {number: names[number] for number in expected} == expected
    first = [each.entry.split(",")[0] for each in imagenet_classes()]
    assert sum(a != b for a, b in zip(names, first, strict=True)) == 4  # all others are plain


def test_a_class_is_found_by_id_name_entry_and_word():
    classes = imagenet_classes()
    for texts in (
        [each.wordnet_id for each in classes],
        imagenet_names(),
        [each.entry.replace(" ", "_") for each in classes if each.entry != "crane"],
    ):
        numbers = imagenet_numbers(texts)
        assert [texts[i] for i in range(3)] and numbers == sorted(numbers)
    assert imagenet_numbers(["Tinca_tinca", "TABBY", "red panda", "N02012849"]) == [
        0,
        281,
        387,
        134,
    ]


def test_lists_of_other_projects_find_their_classes():
    """The dataset on the Hub, torchvision's, and those of earlier conversions."""
    classes = imagenet_classes()
    entries = [each.entry for each in classes]
    short = [entry.split(",")[0] for entry in entries]
    for changes in (
        (entries, {517: "crane2"}),
        (short, {134: "crane bird", 639: "maillot tank suit"}),
        (short, {517: "crane (2)", 639: "maillot (2)"}),
    ):
        names = list(changes[0])
        for number, name in changes[1].items():
            names[number] = name
        assert imagenet_numbers(names) == list(range(1000))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crane", r"may be n02012849 \(crane\), n03126707 \(crane\). Give the WordNet id"),
        ("sus scrofa", "one is meant; got 'sus scrofa'"),
        ("tensh", "got 'tensh'; near to 'tench'"),
        ("n00000001", "must be WordNet ids, as n01440764"),
    ],
)
def test_what_is_no_class_or_several_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        imagenet_numbers([text])
