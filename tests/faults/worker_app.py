"""The worker's Celery application with the fake trainer and with failpoints; pool processes import it too."""

from tests.faults.failpoints import freeze_before_commit
from tests.worker.celery.fake_app import app as app
from worker.celery.app import settings

freeze_before_commit(settings.home)
app.conf.include = (*app.conf.include, __name__)
