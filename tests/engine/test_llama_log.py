from __future__ import annotations

import logging

import pytest

from edge_agent.engine.llama_log import LlamaLog

DEBUG, INFO, WARN, ERROR, CONT = 1, 2, 3, 4, 5


def test_pieces_become_lines_one_level_below_llama_cpp_s_own(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    log = LlamaLog()

    log.write(WARN, "n_ctx is ")
    log.write(CONT, "small\n")
    log.write(INFO, "......\n\nloaded\n")

    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "n_ctx is small"),
        ("DEBUG", "loaded"),
    ]


def test_repacked_weights_are_summed_and_none_means_that_nothing_was_said() -> None:
    log = LlamaLog()
    assert log.repacked_mib is None
    log.write(INFO, "load_tensors:   CPU_Mapped model buffer size =   137.94 MiB\n")
    assert log.repacked_mib == 0.0
    log.write(INFO, "load_tensors:   CPU_REPACK model buffer size =   330.25 MiB\n")
    assert log.repacked_mib == 330.25


@pytest.mark.expects_warning
def test_errors_are_kept_for_the_exception_that_tells_them() -> None:
    log = LlamaLog()

    log.write(ERROR, "invalid magic\n")

    assert list(log.errors) == ["invalid magic"]
