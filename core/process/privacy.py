"""What a process makes belongs to its owner alone, and so does the home folder, whatever the umask was.

For our own processes only: in another program's process the umask is that program's.
"""

import logging
import os
import stat
from typing import Final

from core.errors import SettingsInvalid
from core.process.writable import require_writable
from core.settings import PREFIX, Settings

OWNER_ONLY: Final = 0o077  # as a umask: folders become 0700, files 0600

logger = logging.getLogger(__name__)


def keep_to_owner() -> None:
    """Have this process, and those that it starts, make files and folders that only their owner can open."""
    os.umask(OWNER_ONLY)


def keep_home_to_owner(settings: Settings) -> None:
    """Do so, make the home folder if there is none, and close it to others if it was open to them.

    What lies in an older home keeps its own mode; nobody else gets there any more.

    Raises:
        StartRefused: nothing can be written there.
        SettingsInvalid: the home is a folder that all users share, such as /tmp.
    """
    keep_to_owner()
    home = settings.home.absolute()
    require_writable(home)
    mode = stat.S_IMODE(home.stat().st_mode)
    if mode & stat.S_ISVTX:
        raise SettingsInvalid(f"{home} is shared by all users; choose a folder of its own as {PREFIX}HOME")
    if not mode & OWNER_ONLY:
        return
    try:
        home.chmod(stat.S_IRWXU)
    except PermissionError:
        logger.warning("%s can be opened by others (mode %03o) and belongs to another user: it stays so", home, mode)
        return
    logger.warning("%s could be opened by others (mode %03o): it is its owner's alone now (700)", home, mode)
