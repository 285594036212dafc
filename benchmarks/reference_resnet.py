"""train_accelerate.py with Transformers' ResNet as one more family, for comparison.

    accelerate launch -q benchmarks/reference_resnet.py RECIPE model.bottleneck_expansion=2

Everything is as in train_accelerate.py; only the network is not ours. Its stem is replaced by one
3x3 convolution, as small images need it.
"""

import sys
from functools import partial
from pathlib import Path

from transformers import AutoConfig, ResNetConfig, ResNetForImageClassification
from transformers.models.resnet import modeling_resnet

sys.path.insert(0, str(Path(__file__).parent.parent))

import modeling
import train_accelerate

BOTTLENECK = modeling_resnet.ResNetBottleNeckLayer


class SmallStemConfig(ResNetConfig):
    """Of a ResNet for small images."""

    model_type = "small_stem_resnet"
    num_channels: int = 3
    embedding_size: int = 64
    hidden_sizes: list[int] | tuple[int, ...] | None = (64, 128, 256)
    depths: list[int] | tuple[int, ...] | None = (1, 1, 1)
    bottleneck_expansion: int = 4


class SmallStemResNet(ResNetForImageClassification):
    """Transformers' ResNet without the early strides."""

    config_class = SmallStemConfig

    def __init__(self, config: SmallStemConfig):
        # Transformers' stages have no argument for it; its bottlenecks have.
        modeling_resnet.ResNetBottleNeckLayer = partial(
            BOTTLENECK, reduction=config.bottleneck_expansion
        )
        super().__init__(config)
        embedder = self.resnet.embedder
        embedder.embedder = modeling_resnet.ResNetConvLayer(
            config.num_channels, config.embedding_size
        )
        embedder.pooler = None
        embedder.forward = embedder.embedder.forward
        self.post_init()


AutoConfig.register(SmallStemConfig.model_type, SmallStemConfig)
modeling.FAMILIES[SmallStemConfig] = SmallStemResNet

if __name__ == "__main__":
    train_accelerate.main()
