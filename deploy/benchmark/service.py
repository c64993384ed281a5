"""One service of a cell, in a process that ends with the task that started it.

`python -m aplt.deploy.benchmark.service` reads role and configuration from standard input.
"""

from __future__ import annotations

import json
import logging
import sys

from aplt.common.errors import ApltError
from aplt.deploy.config import RunConfig
from aplt.deploy.local import die_with_parent
from aplt.deploy.services import run_service


def main() -> None:
    """Run the service to its end."""
    die_with_parent()
    request = json.load(sys.stdin)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        run_service(request["role"], RunConfig.model_validate(request["config"]))
    except ApltError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
