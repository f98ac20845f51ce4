"""``python -m v6_pipeline_tests.simulation``: simulate trading days from seeds, in several processes at once."""

from v6_pipeline_tests.simulation.command import main

if __name__ == "__main__":
    main()
