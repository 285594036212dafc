import subprocess
import sys

TELL = """
import logging
from convzoo.log_lines import show_log_lines
import huggingface_hub, datasets

show_log_lines("convzoo", level=logging.INFO)
logging.getLogger("convzoo.data").info("ours")
logging.getLogger("convzoo.data").debug("details")
logging.getLogger("huggingface_hub.utils").warning("theirs")
logging.getLogger("datasets.load").warning("theirs, too")
logging.getLogger("huggingface_hub.repocard").warning("no card")
logging.getLogger("httpx").info("a request")
"""


def test_each_line_is_printed_once_and_requests_not_at_all():
    done = subprocess.run([sys.executable, "-c", TELL], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == ["ours", "theirs", "theirs, too"]
