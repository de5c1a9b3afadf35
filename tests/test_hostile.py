"""Attacks on whoever judges a zip: the short form of `python -m bench.hostile`, of numpy and h5py alone."""

import sys

import pytest

from bench import hostile
from competition.rehearsal import sandbox


def test_attacks_are_contained():
    if not sandbox.find_level(sys.executable).isolated:
        pytest.skip("this machine has no sandbox")
    found = hostile.run_attacks(short=True)
    assert len(found) >= 15
    assert found[found["contained"] != "yes"].empty, found[found["contained"] != "yes"].to_string()
    verdicts = found.set_index("attack")["verdict"]
    for attack in ("open an absolute path", "np.memmap of an absolute path"):
        assert "secret.txt, which the scorer does not have" in verdicts[attack]
    assert "secret.txt" in verdicts["h5py.File"], "native code opens it"
    assert "no answer to what it was asked" in verdicts["forged answers"]
    assert "more than the 400 MB" in verdicts["600 MB of memory"]


def test_an_attack_that_is_not_contained_is_told(monkeypatch):
    monkeypatch.setattr(sandbox, "LEVELS", ())
    (attack,) = [attack for attack in hostile.ATTACKS if attack.name == "open(p, 'r+')"]
    row = hostile.try_attack(attack)
    assert (row["contained"], row["seen"], row["verdict"]) == ("NO: changed a file", "no", "passes")
