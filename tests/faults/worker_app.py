"""The worker's Celery application with the fake trainer and with failpoints; pool processes import it too."""

from core.store.queue import unfit_hosts
from tests.faults.failpoints import freeze_before_commit
from tests.worker.celery.fake_app import app as app
from worker.celery.app import settings
from worker.jobs import host_gate

freeze_before_commit(settings.home)
# a host that could not run a job leaves it, and itself, alone for minutes
vars(unfit_hosts).update(_FIRST_RETRY_S=2, _LONGEST_RETRY_S=5)
vars(host_gate).update(_FIRST_WAIT_S=1.0, _LONGEST_WAIT_S=5.0)
app.conf.include = (*app.conf.include, __name__)
