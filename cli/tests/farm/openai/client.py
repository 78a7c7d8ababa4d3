"""What a program written for the OpenAI videos API does, with the official client. Address and key come from the environment."""

import os
import pathlib

import openai

client = openai.OpenAI()

models = [model.id for model in client.models.list()]
assert models == ["small"], models

adapters = [{"id": os.environ["ADAPTER"], "weight": 0.5}]
extra = {"frames": 4, "steps": 3, "seed": 7, "fps": 8, "adapters": adapters}
with open("cat.png", "rb") as picture:
    video = client.videos.create_and_poll(
        prompt="a cat turns its head",
        model="small",
        size="96x64",
        input_reference=picture,
        extra_body=extra,
        poll_interval_ms=200,
    )
assert video.status == "completed", video
assert video.object == "video" and video.model == "small" and video.size == "96x64", video
assert video.progress == 100 and video.completed_at >= video.created_at, video
assert client.videos.retrieve(video.id).id == video.id

for variant, name in [("video", "clip.mp4"), ("thumbnail", "thumbnail.webp"), ("spritesheet", "spritesheet.jpg")]:
    client.videos.download_content(video.id, variant=variant).write_to_file(pathlib.Path(name))

remix = client.videos.remix(video.id, prompt="the same, at night")
assert remix.remixed_from_video_id == video.id, remix
remix = client.videos.poll(remix.id, poll_interval_ms=200)
assert remix.status == "completed", remix

listed = [each.id for each in client.videos.list(limit=1, order="desc")]
assert listed == [remix.id, video.id], listed
page = client.videos.list(limit=1, order="desc", after=remix.id)
assert [each.id for each in page.data] == [video.id], page
oldest = client.videos.list(limit=1, order="asc")
assert [each.id for each in oldest.data] == [video.id], oldest

deleted = client.videos.delete(remix.id)
assert deleted.deleted and deleted.id == remix.id, deleted
try:
    client.videos.retrieve(remix.id)
    raise AssertionError("a deleted video is still there")
except openai.NotFoundError as error:
    assert error.code == "not_found", error

# One that has not ended.
with open("cat.png", "rb") as picture:
    unwanted = client.videos.create(
        prompt="unwanted", size="64x64", seconds="1", input_reference=picture, extra_body={"steps": 100}
    )
assert unwanted.seconds == "1", unwanted
assert client.videos.delete(unwanted.id).deleted

try:
    client.videos.create(prompt="x", model="sora-2", input_reference=pathlib.Path("cat.png"))
    raise AssertionError("an unknown model was accepted")
except openai.APIStatusError as error:
    assert error.status_code in (400, 404, 422) and "sora-2" in str(error), error
