"""Networks that several test files need, with made-up weights, and folders of before."""

import zipfile
from functools import cache

from modeling import AlexNet, AlexNetConfig
from tests.support.golden_weights import GOLDEN, golden, weights

ORIGINALS = {
    "alexnet_one_tower": AlexNetConfig.one_tower,
    "alexnet_2012_reimplementation": AlexNetConfig.from_2012_reimplementation,
}


@cache
def golden_alexnet(name):
    state = weights(golden(f"{name}.keys"))
    return AlexNet.from_pretrained(None, config=ORIGINALS[name](), state_dict=state)


def extract_published_folders(folder):
    """Unpack one small folder of each family, byte for byte as commit b753996 published it.

    Each family's two files held everything then; logits.json has the logits of
    golden_weights.images(size=40). A zip, because nobody should find, lint or mend this code.
    """
    with zipfile.ZipFile(GOLDEN / "published_folders.zip") as archive:
        archive.extractall(folder)
