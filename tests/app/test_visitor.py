"""Where requests come from: what counts as one address, and whose word on it is believed."""

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from app.page import MCP_ROUTE, Door
from app.visitor import line


@pytest.mark.parametrize(
    ("host", "counts_as"),
    [
        ("203.0.113.5", "203.0.113.5"),
        ("::ffff:203.0.113.5", "203.0.113.5"),  # as a server that listens on both sees it
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),  # whoever has one of these has them all
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
        ("x" * 5000, "x" * 100),
        ("", ""),
    ],
)
def test_what_counts_as_one_address(host, counts_as):
    assert line(host) == counts_as


def test_what_the_server_hands_to_itself_names_the_client_whatever_it_says_of_itself():
    """Gradio sends the headers of a tool's call to this server again, from this machine, where they are believed."""

    async def told(request):
        return PlainTextResponse(",".join(request.headers.getlist("x-forwarded-for")))

    routes = [Route(path, told, methods=["POST"]) for path in (f"{MCP_ROUTE}/", "/other")]
    app = Starlette(routes=routes, middleware=[Middleware(Door)])
    page = TestClient(app, client=("203.0.113.5", 50000), headers={"X-Forwarded-For": "192.0.2.1"})
    assert page.post(f"{MCP_ROUTE}/").text == "203.0.113.5"
    assert page.post("/other").text == "192.0.2.1"
