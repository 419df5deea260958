"""The process: `llm-analysis` and `python -m llm_analysis`."""

import atexit
import gc


def main() -> None:
    """Answers one command line.

    The process is short: collecting garbage during the imports and at the exit would cost a quarter of its time.
    """
    gc.disable()
    atexit.register(gc.freeze)
    from llm_analysis.cli import main as answer

    answer()


if __name__ == "__main__":
    main()
