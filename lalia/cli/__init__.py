"""The program ``lalia``: one module per verb. Nothing outside this package knows argparse."""
