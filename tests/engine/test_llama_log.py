from edge_agent.engine.llama import LlamaLog

DEBUG, INFO, WARN, ERROR, CONT = 1, 2, 3, 4, 5


def test_repacked_weights_are_summed_and_none_means_that_nothing_was_said() -> None:
    log = LlamaLog()
    assert log.repacked_mib is None
    log.write(INFO, "load_tensors:   CPU_Mapped model buffer size =   137.94 MiB\n")
    assert log.repacked_mib == 0.0
    log.write(INFO, "load_tensors:   CPU_REPACK model buffer size =   330.25 MiB\n")
    assert log.repacked_mib == 330.25
