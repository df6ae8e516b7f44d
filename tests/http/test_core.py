"""The core protocol, black box: what PROTOCOL.md's rows on HEAD and PATCH demand."""

from .client import Site


async def test_upload_in_two_patches(site: Site) -> None:
    path = await site.create(11)
    reply = await site.patch(path, 0, b"hello")
    assert (reply.status, reply.offset) == (204, 5)
    reply = await site.head(path)
    assert (reply.status, reply.offset, reply.headers["Upload-Length"]) == (200, 5, "11")
    reply = await site.patch(path, 5, b" world")
    assert (reply.status, reply.offset) == (204, 11)
    assert (await site.get(path)).body == b"hello world"
