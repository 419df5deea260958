"""The process: `llm-analysis` and `python -m llm_analysis`."""

import atexit
import gc
import os
import sys


def main() -> None:
    """Answers one command line.

    The process is short: collecting garbage during the imports and at the exit would cost a quarter of its time, and
    looking through all that is installed for plugins of pydantic would cost a little more with each package.
    """
    gc.disable()
    atexit.register(gc.freeze)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        from llm_analysis.cli.main import main as answer

        answer()
    except KeyboardInterrupt:  # also during the imports and while the answer is printed
        sys.exit(130)


if __name__ == "__main__":
    main()
