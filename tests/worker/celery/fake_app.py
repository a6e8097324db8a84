"""The worker's Celery application as it is, but for the trainer, which is the fake one."""

from tests.harness import fake_trainer
from worker.celery.app import app as app
from worker.trainer_process import process


def _command_for(gpus: int) -> tuple[str, ...]:
    return fake_trainer.COMMAND


process.command_for = _command_for
app.conf.include = (*app.conf.include, __name__)  # so that pool processes import this module too
