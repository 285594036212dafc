"""Show a person what matters of an error."""

import pickle
import re

# What allocators of PyTorch on CPUs and sizes that no address can count say; a GPU has a class.
NO_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|Storage size calculation overflowed|"
    r"Overflow when unpacking long|array is too big"
)


def user_message(error: Exception) -> str:
    """Return the message of an error without the traceback that a DataLoader worker adds."""
    text = str(error).strip()
    marker = f"\n{type(error).__name__}: "
    return text.rpartition(marker)[2] if "in DataLoader worker" in text else text


def expected_problem(error: Exception) -> str | None:
    """Return one line about what a person can mend; None for an error that needs its traceback."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error}. Install it: pip install -e '.[train]'"
    if isinstance(error, pickle.UnpicklingError):
        return (
            "weights must be a safetensors file, or a pickle with tensors and plain values only; "
            "none of it was run. Get them as safetensors, or see `convzoo convert`. "
            f"({_first_line(error)})"
        )
    if is_out_of_memory(error):
        return (
            f"model, images and batches must fit into memory; they do not ({_first_line(error)}). "
            f"Lower the sizes in [model], preprocessing.crop or the batch size"
        )
    if isinstance(error, ValueError | OSError | FloatingPointError):
        return user_message(error)
    package = type(error).__module__.partition(".")[0]
    if package in ("httpx", "httpx2", "httpcore"):
        return (
            f"the Hub could not be reached; {type(error).__name__}: {user_message(error)}. Try "
            f"again, or give a folder"
        )
    if type(error).__name__.startswith("StrictDataclass"):  # a field of a model's configuration
        return field_problem(error)
    return None


def field_problem(error: Exception) -> str:
    """Say in one line which field of a model's configuration has a value of a wrong type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.sub(r"^TypeError: Field|^ValueError: Field", "field", lines[-1])


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an error says that something does not fit into the main memory."""
    if isinstance(error, MemoryError):
        return True
    plain = type(error) in (RuntimeError, TypeError, ValueError)  # not OutOfMemoryError, of GPUs
    return plain and bool(NO_MEMORY.search(str(error)))


def _first_line(error: Exception) -> str:
    return (user_message(error) or type(error).__name__).splitlines()[0]
