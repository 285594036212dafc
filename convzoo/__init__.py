"""The engine of convzoo: recipes, data, training pieces, evaluation and conversion.

Nothing here is published with weights (that is `modeling/`), so this package may be changed freely
without breaking a model on the Hub.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("convzoo")
except PackageNotFoundError:  # a clone that was not installed
    __version__ = "unknown"
