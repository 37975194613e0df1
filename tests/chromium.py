"""Where a Chromium is on this machine, for tests that look at pages."""

from __future__ import annotations

import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATH = next((path for path in map(shutil.which, NAMES) if path), None)
MISSING = "no Chromium is installed here, so no page was looked at: apt-get install chromium"
