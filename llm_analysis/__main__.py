"""The process: `llm-analysis` and `python -m llm_analysis`."""

import gc
import os
import sys


def main() -> None:
    """Answer one command line.

    Garbage collection is off during the imports, which leave no garbage; `cli.main.load` turns it on again before the
    command runs. pydantic plugins are disabled because pydantic would look for them in every installed package.
    """
    gc.disable()
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        from llm_analysis.cli.main import main as answer

        answer()
    except KeyboardInterrupt:  # also during the imports and while the answer is printed
        sys.exit(130)


if __name__ == "__main__":
    main()
