"""The machines that the kills on a cluster run on."""

import socket
import subprocess
import sys

import pytest
from network import machines

DIAL = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2]))); print(socket.if_nameindex())"


def test_machines__reach_the_first_one_from_a_network_of_their_own():
    with machines(2) as found:
        here, *others = found
        if not here.before and not others[0].before:
            pytest.skip("network namespaces need root and ip")
        assert len({one.address for one in found}) == 3
        with socket.create_server((here.address, 0)) as server:
            for other in others:
                command = [*other.before, sys.executable, "-c", DIAL, here.address, str(server.getsockname()[1])]
                told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                assert "eth0" not in told and server.accept()
    spaces = subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout
    assert not any(other.before[-1] in spaces for other in others)
