"""What the drivers promise and whole runs don't show."""

from __future__ import annotations

import pytest

from loadtest.drivers import load_driver


@pytest.fixture(params=["rabbitry", "aiormq"])
def driver(request: pytest.FixtureRequest, anyio_backend_name: str) -> str:
    name: str = request.param
    if name == "aiormq" and anyio_backend_name == "trio":
        pytest.skip("aiormq runs on asyncio only")
    return name


async def test_a_queue_that_is_not_there_is_counted_as_such(driver: str, amqp_url: str) -> None:
    async with (
        load_driver(driver).open() as session,
        session.connect(amqp_url, "test") as connection,
        connection.administrator() as administrator,
    ):
        name = f"test.drivers.{driver}"
        await administrator.delete_queue(name)
        assert await administrator.count_messages(name) is None
        await administrator.declare_queue(name, {"x-expires": 10_000})
        assert await administrator.count_messages(name) == 0
        await administrator.delete_queue(name)
        assert await administrator.count_messages(name) is None
