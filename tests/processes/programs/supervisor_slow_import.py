"""A module whose import says that it has begun, and then takes very long."""

import os
import time
from pathlib import Path

Path(os.environ["SLOW_IMPORT_FIFO"]).write_text(str(os.getpid()))
time.sleep(600)
