"""The two services as plain functions: what `aplt train` and `aplt label` run, and what the Ray actors run.

Each imports only its own side: a service that was killed is back at work as soon as its imports are done.
"""

from __future__ import annotations

import logging
import os
import socket
from datetime import UTC, datetime
from typing import Any

from aplt.common.config import config_digest
from aplt.common.data.prepared import PreparedData
from aplt.common.manifest import Provenance
from aplt.common.records import MetricLog
from aplt.common.service import Role, RoleClaim
from aplt.common.store import ArtifactStore
from aplt.deploy.config import RunConfig
from aplt.deploy.runs import code_version, create_or_resume, record_data, records_folder

logger = logging.getLogger(__name__)


def run_service(role: Role, config: RunConfig) -> None:
    """Act as one role of a run until its part is done.

    Raises:
        ApltError: what the user can mend; the run can be resumed afterwards.
    """
    store = create_or_resume(config, resume=False, join=True).with_patience(config.store.patience_s)
    with RoleClaim(store, role) as claim, MetricLog(records_folder(config), role, claim=claim.number) as log:
        # The claim comes first: it tells those who watch what failed.
        data = _open_data(config)
        record_data(store, data)
        logger.info("%s of run %s, process %d of this role", role, config.run, claim.number)
        provenance = provenance_of(role, config)
        share = _train if role == "trainer" else _label
        share(config=config, store=store, data=data, claim=claim, provenance=provenance, log=log)


def _open_data(config: RunConfig) -> PreparedData:
    data = config.data
    if data.url is not None:
        from aplt.common.data.remote import fetch

        fetch(data.url, data.folder, config.store.options, split=data.split_name)
    return PreparedData.open(data.folder, data.split_name)


def _train(*, config: RunConfig, store: ArtifactStore, **tools: Any) -> None:
    from aplt.trainer.followers import RankLostError
    from aplt.trainer.loop import Trainer, train

    trainer, lost_after = Trainer(config=config, plan=config.plan(), store=store, **tools), -1
    while True:
        try:
            train(trainer)
            return
        except RankLostError as error:
            newest = max(store.checkpoints.versions(), default=0)
            if newest == lost_after:  # twice in one epoch: starting again does not help
                raise
            logger.warning("%s; all ranks start again", error)
            lost_after = newest


def _label(*, config: RunConfig, store: ArtifactStore, data: PreparedData, claim: RoleClaim, **tools: Any) -> None:
    from aplt.labeler.service import Labeler, label_run

    label_run(Labeler.of(config=config, store=store, data=data, claim=claim, **tools))
    from aplt.labeler.report import write_report  # only now: the first labels do not wait for its imports

    claim.working("summary and pictures", 1.0)
    write_report(store, config, data)


def provenance_of(role: Role, config: RunConfig) -> Provenance:
    """Return who makes the artifacts of this process."""
    return Provenance(
        role=role,
        host=socket.gethostname(),
        pid=os.getpid(),
        config_digest=config_digest(config.model_dump(mode="json")),
        code_version=code_version(),
        created_at=datetime.now(UTC).isoformat(),
    )
