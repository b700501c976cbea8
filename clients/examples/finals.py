import asyncio
import sys

from streamcap_client import Caption, Feed


async def main(url: str) -> None:
    async for event in Feed(url, interim=False):
        if isinstance(event, Caption):
            print(event.stream, event.text, flush=True)


asyncio.run(main(sys.argv[1]))
