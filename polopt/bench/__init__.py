"""The measuring bench: suites of resumable cells, peers measured in the same way, and the report drawn from records."""

from .pool import Outcome, read_record, run_suite
from .suite import Cell, Evaluation, Suite, load_suite

__all__ = ["Cell", "Evaluation", "Outcome", "Suite", "load_suite", "read_record", "run_suite"]
