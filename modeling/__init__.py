"""The models of the zoo, exactly as they are published with their weights.

Importing this package registers every family with the Auto classes of Transformers, and makes
`save_pretrained` and `push_to_hub` write the code beside the weights.
"""

from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
)

from .configuration_alexnet import AlexNetConfig
from .configuration_cnn import CNNConfig
from .configuration_convzoo import ConvZooConfig
from .configuration_qlnet import QLNetConfig
from .image_processing_convzoo import ConvZooImageProcessor
from .modeling_alexnet import AlexNet, AlexNetBackbone, AlexNetModel
from .modeling_cnn import CNN, CNNBackbone, CNNModel
from .modeling_convzoo import ConvZooModel
from .modeling_qlnet import QLNet, QLNetBackbone, QLNetModel

FAMILIES: dict[type[ConvZooConfig], type[ConvZooModel]] = {
    CNNConfig: CNN,
    AlexNetConfig: AlexNet,
    QLNetConfig: QLNet,
}
# Each family once more without its head.
FEATURES: dict[type[ConvZooConfig], type[ConvZooModel]] = {
    CNNConfig: CNNModel,
    AlexNetConfig: AlexNetModel,
    QLNetConfig: QLNetModel,
}
BACKBONES: dict[type[ConvZooConfig], type[ConvZooModel]] = {
    CNNConfig: CNNBackbone,
    AlexNetConfig: AlexNetBackbone,
    QLNetConfig: QLNetBackbone,
}

for _config_class in FAMILIES:
    AutoConfig.register(_config_class.model_type, _config_class)
    AutoImageProcessor.register(
        _config_class, image_processor_classes={"pil": ConvZooImageProcessor}
    )
    _config_class.register_for_auto_class()
for _auto_class, _models in (
    (AutoModelForImageClassification, FAMILIES),
    (AutoModel, FEATURES),
    (AutoBackbone, BACKBONES),
):
    for _config_class, _model_class in _models.items():
        _auto_class.register(_config_class, _model_class)
        _model_class.register_for_auto_class(_auto_class.__name__)
ConvZooImageProcessor.register_for_auto_class()

__all__ = [
    "CNN",
    "AlexNet",
    "AlexNetBackbone",
    "AlexNetConfig",
    "AlexNetModel",
    "CNNBackbone",
    "CNNConfig",
    "CNNModel",
    "ConvZooConfig",
    "ConvZooImageProcessor",
    "ConvZooModel",
    "QLNet",
    "QLNetBackbone",
    "QLNetConfig",
    "QLNetModel",
]
