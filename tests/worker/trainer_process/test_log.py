from pathlib import Path

from worker.trainer_process.log import TrainerLog


def test_the_file_stops_at_its_cap_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "trainer.log"
    with TrainerLog(path, most_bytes=10) as log:
        for _ in range(100):
            log.write(b"abcd")

    assert path.read_bytes() == b"abcdabcdab\n[the log ends here: it reached 10 bytes]\n"


def test_the_last_lines_are_known_beyond_the_cap(tmp_path: Path) -> None:
    with TrainerLog(tmp_path / "trainer.log", most_bytes=10) as log:
        log.write(b"a long beginning\n")
        log.write(b"Traceback\n\n  the rea")
        log.write(b"son\n")

        assert log.last_lines(2) == ["Traceback", "  the reason"]
