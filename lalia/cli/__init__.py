"""The program ``lalia``: one module per verb. Only this package imports argparse; functions elsewhere take typed arguments."""
