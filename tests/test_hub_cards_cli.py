"""The command line of hub_cards."""

from tests.support.clients import run


def test_help_does_not_load_the_libraries():
    code = (
        "import sys; from hub_cards.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: assert not {'jinja2', 'yaml', 'huggingface_hub'} & set(sys.modules)"
    )
    assert "render" in run("-c", code).stdout
