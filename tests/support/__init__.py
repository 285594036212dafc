"""What several test files share: programs, images, networks, pages and a Hub on loopback."""

import pytest

# Failed assertions show their values here as in a test file.
for name in ("clients", "documents", "models"):
    pytest.register_assert_rewrite(f"tests.support.{name}")
