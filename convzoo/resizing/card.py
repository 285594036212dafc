"""The dataset card of a resized copy."""

from collections.abc import Sequence
from typing import Any

from convzoo.data.split import Split
from convzoo.resizing.shards import REPORT, Report


def dataset_card(report: Report, splits: Sequence[Split]) -> str:
    """Write the dataset card: front matter as the Hub reads it, and what was done."""
    import yaml

    settings, totals, described = report["settings"], report["totals"], splits[0].describe()
    size = settings["size"]
    title = f"{described['name']}, presized to {size}"
    origin = [described["id"]] if described["id"] else described["source_datasets"]
    front: dict[str, Any] = {"pretty_name": title}
    front |= {key: value for key, value in splits[0].card.items() if key.startswith("license")}
    if origin:
        front["source_datasets"] = origin
    front |= {
        "task_categories": ["image-classification"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": split, "path": f"data/{split}-*"} for split in report["splits"]
                ],
            }
        ],
    }
    done = [f"shorter side {size} pixels (antialiased {settings['interpolation']})"]
    done += ["smaller images enlarged" if settings["enlarge"] else "smaller images left alone"]
    done += [f"cut to at most {size} x {size} at the centre"] * settings["crop"]
    colours = ":".join(settings["subsampling"])
    turned = "turned as their EXIF data said" if settings["exif_rotation"] else "not turned"
    done += [f"saved as RGB JPEG of quality {settings['quality']}, colours {colours}"]
    lines = [
        f"| {split} | {sum(shard['images'] for shard in content['shards']):,} | "
        f"{sum(len(shard['unreadable']) for shard in content['shards'])} | "
        f"{len(content['shards'])} | {sum(s['bytes_out'] for s in content['shards']) / 1e6:,.1f} |"
        for split, content in report["splits"].items()
    ]
    versions = report["environment"]["versions"]
    used = ", ".join(f"{key} {versions[key]}" for key in ("convzoo", "torch", "simplejpeg"))
    revision = f" at revision `{described['revision']}`" if described["revision"] else ""
    return f"""---
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---

# {title}

A copy of `{described["path"]}`{revision} for faster training: {"; ".join(done)}.
{totals["unchanged"]:,} images were JPEGs of that size already and kept their bytes. Order,
classes and class numbers are the source's. Images with an EXIF rotation were {turned}, and saved
without it. Other columns and file names were left out.

| split | images | unreadable, left out | files | MB of images |
|---|---|---|---|---|
{chr(10).join(lines)}

`{REPORT}` lists the unreadable images. Made on {report["date"]} with {used}:

```bash
{report["command"]}
```

The licence and the terms of the source hold for this copy.
"""
