"""torchrun that ends with the exit status of the run: ``python -m lalia.training.torchrun [OPTIONS] -m lalia pretrain fit …``.

torchrun itself ends with 1 and a traceback whatever its processes end with, and SIGUSR1 kills it. OPTIONS are torchrun's.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from types import FrameType

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from lalia.errors import Interrupted


def main(argv: Sequence[str] | None = None) -> int:
    """Run torchrun with ``argv``; the status of the process that failed first, 130 after a stop signal, 0 if none failed."""
    signal.signal(signal.SIGUSR1, _stop)
    try:
        run(parse_args(list(sys.argv[1:] if argv is None else argv)))
    except SignalException:  # torchrun has passed it on, and has waited for its processes
        return Interrupted.status
    except ChildFailedError as error:
        status = int(error.get_first_failure()[1].exitcode)
        return status if status > 0 else 128 - status
    return 0


def _stop(signum: int, frame: FrameType | None) -> None:
    raise SignalException(f"got {signal.Signals(signum).name}", signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
