"""The page of an `evaluate` metric. A Space has this file as app.py, beside the metric's module.

The widget of evaluate 0.4.6 cannot be used: it needs gradio 3.
"""

import json
from pathlib import Path

import evaluate
import gradio as gr

HERE = Path(__file__).resolve().parent


def build_demo(script: Path) -> gr.Interface:
    """Build a page with one field of JSON for each input of the metric, and one for its options."""
    metric = evaluate.load(str(script), keep_in_memory=True)

    def compute(*fields: str) -> object:
        try:
            *inputs, options = (json.loads(field) for field in fields)
            return metric.compute(**dict(zip(metric.features, inputs, strict=True)), **options)
        except (TypeError, ValueError) as error:
            raise gr.Error(str(error), print_exception=False) from error

    return gr.Interface(
        compute,
        [
            *(gr.Textbox(label=f"{name}, a list in JSON") for name in metric.features),
            gr.Textbox("{}", label="options in JSON"),
        ],
        gr.JSON(label="result"),
        title=script.stem,
        description=metric.description,
        article=metric.inputs_description,
        flagging_mode="never",
        api_name="compute",
        analytics_enabled=False,
    )


if __name__ == "__main__":
    (module,) = (path for path in HERE.glob("*.py") if path.name != "app.py")
    build_demo(module).launch()
