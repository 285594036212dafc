"""`convzoo benchmark`: how fast a model answers, beside others."""

from typing import Annotated

import typer

from convzoo.cli import options

EXAMPLES = """
convzoo benchmark runs/quickstart/model
convzoo benchmark USER/NAME --against timm:resnet50 torchvision:alexnet --batch-sizes 1 16 32
convzoo benchmark USER/NAME --dtypes float32 bfloat16 --prepared loaded fused --threads 1
"""


def benchmark(  # noqa: PLR0913  the options of a command are its parameters
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder or Hub id.")],
    *,
    against: Annotated[
        list[str] | None,
        options.text(
            "NETWORK...",
            "timm:NAME, torchvision:NAME, folders or Hub ids to measure in the same run.",
        ),
    ] = None,
    batch_sizes: Annotated[
        list[str] | None,
        options.text("N...", "Images of a pass; 1 and 16 by default."),
    ] = None,
    dtypes: Annotated[
        list[str] | None,
        options.text("TYPE...", "float32, bfloat16; the first by default."),
    ] = None,
    prepared: Annotated[
        list[str] | None,
        options.text(
            "HOW...", "loaded, fused, compiled, fused+compiled; the first two by default."
        ),
    ] = None,
    rounds: Annotated[int, options.at_least(3, "Turns of each network.")] = 5,
    threads: Annotated[int, options.at_least(0, "Of the CPU; 0 for those of PyTorch.")] = 0,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="cpu or cuda.")] = "cpu",
    keep_memory: Annotated[
        bool,
        typer.Option(
            "--keep-memory/--free-memory",
            help="Keep freed memory for the next tensor, as convzoo evaluate does on CPUs.",
        ),
    ] = True,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure images per second, latency and memory of a model, beside others.

    Networks compute in turns. The result is also written to speed_results.json in the model's
    folder, where its card finds it.
    """
    options.start(quiet)
    with options.importing():
        from convzoo.benchmarking.benchmarking import (
            BenchmarkOptions,
            benchmark_model,
            benchmark_text,
        )

    if wrong := [each for each in batch_sizes or () if not each.isdecimal()]:
        raise ValueError(f"--batch-sizes must be whole numbers from 1 on; got {wrong[0]!r}")
    options.hide_bars_of_transformers()
    result = benchmark_model(
        model,
        BenchmarkOptions(
            against=against or (),
            batch_sizes=[int(each) for each in batch_sizes or ("1", "16")],
            dtypes=dtypes or ("float32",),
            preparations=prepared or ("loaded", "fused"),
            rounds=rounds,
            threads=threads,
            device=device,
            keep_memory=keep_memory,
            trust_remote_code=trust_remote_code,
        ),
    )
    if as_json:
        options.print_json(result)
    else:
        print(benchmark_text(result))
