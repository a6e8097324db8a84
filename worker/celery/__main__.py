"""``python -m worker.celery``: Celery's own command with our packages already imported.

Celery looks for its application in the current folder first, where a folder named worker must not be taken for ours.
"""

from celery.__main__ import main

import worker.celery.app  # noqa: F401 - before Celery looks for it

if __name__ == "__main__":
    main()
