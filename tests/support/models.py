"""Networks that several test files need, with made-up weights."""

from functools import cache

from modeling import AlexNet, AlexNetConfig
from tests.support.golden_weights import golden, weights

ORIGINALS = {
    "alexnet_one_tower": AlexNetConfig.one_tower,
    "alexnet_2012_reimplementation": AlexNetConfig.from_2012_reimplementation,
}


@cache
def golden_alexnet(name):
    state = weights(golden(f"{name}.keys"))
    return AlexNet.from_pretrained(None, config=ORIGINALS[name](), state_dict=state)
