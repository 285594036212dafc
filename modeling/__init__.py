"""The models of the zoo, exactly as they are published with their weights.

Importing this package registers every family with the Auto classes of Transformers, and makes
`save_pretrained` and `push_to_hub` write the code beside the weights.
"""

from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

from .configuration_alexnet import AlexNetConfig
from .configuration_cnn import CNNConfig
from .configuration_convzoo import ConvZooConfig
from .configuration_qlnet import QLNetConfig
from .image_processing_convzoo import ConvZooImageProcessor
from .modeling_alexnet import AlexNet
from .modeling_cnn import CNN
from .modeling_convzoo import ConvZooModel
from .modeling_qlnet import QLNet

FAMILIES: dict[type[ConvZooConfig], type[ConvZooModel]] = {
    CNNConfig: CNN,
    AlexNetConfig: AlexNet,
    QLNetConfig: QLNet,
}

for _config_class, _model_class in FAMILIES.items():
    AutoConfig.register(_config_class.model_type, _config_class)
    AutoModelForImageClassification.register(_config_class, _model_class)
    AutoImageProcessor.register(
        _config_class, image_processor_classes={"pil": ConvZooImageProcessor}
    )
    _config_class.register_for_auto_class()
    _model_class.register_for_auto_class("AutoModelForImageClassification")
ConvZooImageProcessor.register_for_auto_class()

__all__ = [
    "CNN",
    "AlexNet",
    "AlexNetConfig",
    "CNNConfig",
    "ConvZooConfig",
    "ConvZooImageProcessor",
    "ConvZooModel",
    "QLNet",
    "QLNetConfig",
]
