"""Programs of Debian: where they are looked for, and what is said when they cannot be had."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ops.stack import debian
from ops.stack.errors import StackError


def test_without_kamailio_and_without_apt_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr(debian.shutil, "which", lambda _name: None)
    with pytest.raises(StackError, match="no kamailio on this machine") as caught:
        debian.find_sip()
    assert "kamailio-postgres-modules" in caught.value.advice
    assert "sip-tester" in caught.value.advice


def test_an_archive_that_cannot_be_reached_is_said_so(monkeypatch, tmp_path):
    def refuse(*_arguments: object, **_options: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(debian.shutil, "which", lambda name: name == "apt-get" or None)
    monkeypatch.setattr(debian, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(debian, "fetched", lambda place, make: make(place))
    monkeypatch.setattr(debian, "_run", refuse)
    with pytest.raises(StackError, match="no route to host") as caught:
        debian.find_sip()
    assert "apt-get install kamailio kamailio-postgres-modules sip-tester" in caught.value.advice


def test_libraries_that_came_along_are_found_by_the_loader():
    sip = debian.Sip(Path("/k"), Path("/m"), Path("/s"), (Path("/x"), Path("/y")))
    assert sip.env == {"LD_LIBRARY_PATH": f"/x{os.pathsep}/y"}
    assert debian.Sip(Path("/k"), Path("/m"), Path("/s")).env == {}
