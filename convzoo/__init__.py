"""The engine of convzoo: recipes, data, training pieces, evaluation and conversion.

Nothing here is published with weights (that is `modeling/`), so this package may be changed freely
without breaking a model on the Hub.
"""


def __getattr__(name: str) -> str:
    """The version is looked up when it is asked for: importlib.metadata takes 30 ms to import."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("convzoo")
    except PackageNotFoundError:  # a clone that was not installed
        return "unknown"
