from pathlib import Path

import pytest

from edge_agent.tools.watch.expected import expected_boards

ROOT = Path(__file__).parents[3]
NESTED = """\
# our plant
plant:
  children:
    hall1:
      children:
        presses:
          hosts:
            press-[01:03]:   # a range
            "oven-1": {ansible_host: 192.0.2.7}
          vars:
            ansible_user: pi
      hosts:
        lathe-01:
          ansible_host: 192.0.2.31
    hall2:
      hosts:
        lathe-02:
"""


def boards(folder: Path, text: str, site: str = "hall1") -> list[str]:
    path = folder / "hosts.yml"
    path.write_text(text, "utf-8")
    return expected_boards(path, site)


def test_the_example_inventory_names_the_boards_of_each_site() -> None:
    path = ROOT / "ansible/example/hosts.yml"
    assert expected_boards(path, "hall1") == ["press-04", "press-05"]
    assert expected_boards(path, "hall2") == ["lathe-01"]
    assert expected_boards(path, "plant") == ["press-04", "press-05", "lathe-01"]


def test_groups_nest_and_hosts_may_be_ranges(tmp_path: Path) -> None:
    assert boards(tmp_path, NESTED) == ["press-01", "press-02", "press-03", "oven-1", "lathe-01"]
    assert boards(tmp_path, NESTED, "hall2") == ["lathe-02"]
    assert len(boards(tmp_path, NESTED, "elsewhere")) == 6


def test_a_child_group_may_have_its_hosts_elsewhere(tmp_path: Path) -> None:
    text = "hall1:\n hosts:\n  oven-1:\n children:\n  line1:\nline1:\n hosts:\n  press-01:\nhall2:\n hosts:\n  saw-1:\n"
    assert boards(tmp_path, text) == ["oven-1", "press-01"]


@pytest.mark.parametrize(
    "text", ["hall1:\n  hosts: {press-01: }\nhall2:\n  hosts:\n    saw-1:\n", "press-[05:01]\noven-1\n"]
)
def test_boards_that_would_be_left_out_are_a_fault(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"should .* \(got "):
        boards(tmp_path, text)


def test_another_file_has_a_name_per_line(tmp_path: Path) -> None:
    assert boards(tmp_path, "\ufeff# presses\npress-04\n\npress-05 # new\npress-04\n") == ["press-04", "press-05"]


@pytest.mark.parametrize("text", ["", "all:\n  hosts:\n", "press 04\n", "[hall1]\npress-04\n", "press-[1:999999]\n"])
def test_a_file_that_names_no_boards_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="should name"):
        boards(tmp_path, text)
