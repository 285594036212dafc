"""The half of a configuration that all families share: labels and stages, named and checked."""

from typing import Any, ClassVar, Self

from transformers import PreTrainedConfig
from transformers.backbone_utils import BackboneConfigMixin

CHOICES_OF_STAGES = ("out_features", "out_indices")  # two ways to say the same
# Fields that config.json has only where they are not so: without them it is as it always was.
UNWRITTEN = {"layer_implementation": "builtin", "pyramid_levels": []}
# Auto classes of Transformers, and what the names of their models end in, after the family's.
AUTO_CLASSES = {
    "AutoModelForImageClassification": "",
    "AutoModel": "Model",
    "AutoBackbone": "Backbone",
}


class ConvZooConfig(BackboneConfigMixin, PreTrainedConfig):
    """Configuration of an image classifier; each family adds its fields and their rules.

    Args:
        kwargs: `num_labels` or `num_classes` (1000 without either and without `id2label`);
            `out_features` or `out_indices`, the stages whose maps a backbone returns, by their
            names in `stage_names` or by their places there (the last without either); and the
            fields that every Transformers configuration has.

    Raises:
        ValueError: if a field, or the number of labels, breaks its rule.
    """

    attribute_map: ClassVar[dict[str, str]] = {"num_classes": "num_labels"}

    layer_implementation: str = "builtin"

    @property
    def stage_channels(self) -> list[int]:
        """Channels that leave the stem and each stage."""
        raise NotImplementedError

    @property
    def stage_strides(self) -> list[int]:
        """Pixels of the image for one of the map that leaves the stem and each stage."""
        raise NotImplementedError

    @property
    def stage_names(self) -> list[str]:
        """Names of the stem and of each stage: "stem", "stage1", "stage2", ..."""
        return ["stem", *(f"stage{number}" for number in range(1, len(self.stage_channels)))]

    def __post_init__(self, **kwargs: Any) -> None:
        chosen = {key: kwargs.pop(key, None) for key in CHOICES_OF_STAGES}
        self.set_output_features_output_indices(
            **{key: None if value is None else list(value) for key, value in chosen.items()}
        )
        given = (kwargs.pop("num_labels", None), kwargs.pop("num_classes", None))
        counts = {count for count in given if count is not None}
        if self.id2label is not None:
            counts.add(len(self.id2label))
        if len(counts) > 1:
            raise ValueError(
                "num_labels, num_classes and the length of id2label must be equal; got "
                f"{sorted(counts)}. Give one of them."
            )
        if self.id2label is None:
            kwargs["num_labels"] = counts.pop() if counts else 1000
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]  # in Transformers
        names = {int(index): name for index, name in (self.id2label or {}).items()}
        if self.label2id is None:
            self.label2id = {name: index for index, name in names.items()}
        if sorted(names) != list(range(len(names))):
            raise ValueError(f"id2label must have the keys 0, 1, 2, ...; got {list(names)}")
        if self.layer_implementation not in ("builtin", "by_hand"):
            raise ValueError(
                'layer_implementation must be "builtin" or "by_hand"; got '
                f'"{self.layer_implementation}"'
            )
        self._check()

    def _check(self) -> None:
        """Raise ValueError if a field of the family breaks its rule."""

    def _check_positive(self, *names: str) -> None:
        """Raise ValueError unless these fields, numbers or lists of them, are positive."""
        for name in names:
            value = getattr(self, name)
            if min(value if isinstance(value, list) else [value], default=0) < 1:
                raise ValueError(f"{name} must be positive; got {value}")

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """Build the configuration from a dictionary and from the fields among the keywords.

        Args:
            config_dict: the contents of a config.json.
            kwargs: fields that replace those of the dictionary (another number of labels also
                replaces its label names); the rest is for `PreTrainedConfig.from_dict`.

        Returns:
            The configuration; with `return_unused_kwargs` a pair of it and the unused keywords.
        """
        fields = {*cls.__dataclass_fields__, "num_labels", "num_classes", *CHOICES_OF_STAGES}
        given = {key: kwargs.pop(key) for key in list(kwargs) if key in fields - {"dtype"}}
        if given.keys() & set(CHOICES_OF_STAGES):
            config_dict = {k: v for k, v in config_dict.items() if k not in CHOICES_OF_STAGES}
        stored_count = len(config_dict.get("id2label") or ())
        count = given.get("num_labels", given.get("num_classes", stored_count))
        if "id2label" in given or count != stored_count:
            label_keys = ("id2label", "label2id", "num_labels", "num_classes")
            config_dict = {k: v for k, v in config_dict.items() if k not in label_keys}
        return super().from_dict({**config_dict, **given}, **kwargs)

    def to_diff_dict(self) -> dict[str, Any]:
        """Return what config.json holds.

        The label names are in it even where they equal the default of Transformers, the stages of
        a backbone only where they were chosen. Beside a model, auto_map names all its classes.
        """
        fields = {**super().to_diff_dict(), "id2label": self.id2label, "label2id": self.label2id}
        if self.out_features == self.stage_names[-1:]:
            fields = {k: v for k, v in fields.items() if k not in CHOICES_OF_STAGES}
        for name, value in UNWRITTEN.items():
            if fields.get(name) == value:
                del fields[name]
        code = f"modeling_{self.model_type}"
        is_family = type(self).__module__.endswith(f"configuration_{self.model_type}")
        if is_family and fields.get("auto_map", {}).keys() & AUTO_CLASSES.keys():
            name = type(self).__name__.removesuffix("Config")
            classes = {key: f"{code}.{name}{ending}" for key, ending in AUTO_CLASSES.items()}
            fields["auto_map"] = fields["auto_map"] | classes
        return fields


__all__ = ["ConvZooConfig"]
